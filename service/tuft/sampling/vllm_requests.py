"""Our requests in vLLM's terms, and its outputs in ours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft.contracts.operations import SampleOperation
from tuft.contracts.wire import SampledSequence, SampleResult
from tuft.sampling.distributions import EMPTY_LOGPROB, EMPTY_TOKEN
from tuft.sampling.stops import Detokenizer, StopCondition

# Tokens between two outputs of a sequence that only its own end can stop: soon enough to end
# one whose logits are no longer finite.
_INTERVAL = 32

Floats = npt.NDArray[np.float32]
Table = tuple[npt.NDArray[np.int32], Floats]


class NotFiniteError(Exception):
    """The model gave NaN or infinite logits."""


@dataclass(eq=False)
class Sample:
    """One sequence of a request: vLLM knows it as a request of its own."""

    operation: SampleOperation
    index: int
    limit: int
    """Tokens that it may have."""
    stop: StopCondition | None
    """Watches for stop strings; without any, vLLM itself finds the end."""
    salt: str
    """Only samples with the same share cached keys and values."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Floats] = field(default_factory=list)
    topk: list[Table] = field(default_factory=list)
    reason: str | None = None
    known: int = 0
    """Prompt tokens that were not read again."""
    scores: Floats | None = None
    topk_prompt: Table | None = None

    @classmethod
    def of(
        cls,
        operation: SampleOperation,
        index: int,
        limit: int,
        detokenizer: Detokenizer | None,
        salt: str,
    ) -> Sample:
        strings = operation.params.stop_strings
        stop = StopCondition(operation.params, detokenizer) if strings else None
        return cls(operation, index, limit, stop, salt)

    @property
    def vllm_id(self) -> str:
        return f"{self.operation.request_id}/{self.index}"

    @property
    def prompt(self) -> dict[str, Any]:
        """vLLM's prompt."""
        return {"prompt_token_ids": self.operation.prompt, "cache_salt": self.salt}

    def params(self) -> Any:
        """vLLM's SamplingParams."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        asked, operation = self.operation.params, self.operation
        scored = self.index == 0 and scores_wanted(operation)
        return SamplingParams(
            max_tokens=max(1, self.limit),
            seed=None if asked.seed is None else _seed(asked.seed, self.index),
            stop_token_ids=asked.stop_tokens,
            ignore_eos=True,
            temperature=asked.temperature,
            top_k=max(0, asked.top_k),
            top_p=asked.top_p,
            logprobs=operation.topk_sample_logprobs,
            prompt_logprobs=operation.topk_prompt_logprobs if scored else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=1 if self.stop else _INTERVAL,
        )

    def take(self, output: Any) -> None:
        """The next of vLLM's RequestOutputs; `reason` is set with the last one.

        Raises:
            NotFiniteError: see there.
        """
        self.known = self.known or output.num_cached_tokens or 0
        if output.prompt_logprobs:
            self._take_scores(output.prompt_logprobs)
        completion = output.outputs[0]
        tokens = list(completion.token_ids)
        if tokens:
            ids, values = _table(completion.logprobs, 0, self.operation.topk_sample_logprobs)
            _check_finite(values[:, 0])
            self._take_tokens(tokens, ids, values)
        if self.reason is None:
            self.reason = completion.finish_reason

    def result(self) -> SampledSequence:
        k = self.operation.topk_sample_logprobs
        if self.limit == 0:
            # vLLM samples one token at least; here there was no room for it.
            self.tokens, self.logprobs, self.topk, self.reason = [], [], [], "length"
        assert self.reason is not None, "not at its end"
        nothing: Floats = np.empty(0, dtype=np.float32)
        topk = None
        if k > 0:
            empty = _empty(0, k)
            topk = (
                np.concatenate([empty[0], *(ids for ids, _ in self.topk)]),
                np.concatenate([empty[1], *(values for _, values in self.topk)]),
            )
        return SampledSequence(
            tokens=np.array(self.tokens, dtype=np.int32),
            logprobs=np.concatenate([nothing, *self.logprobs]),
            stop_reason=self.reason,
            topk=topk,
        )

    def _take_tokens(self, tokens: list[int], ids: npt.NDArray[np.int32], values: Floats) -> None:
        count = len(tokens)
        for place, token in enumerate(tokens if self.stop else ()):
            assert self.stop is not None
            if self.stop.reached(token):
                count, self.reason = place + 1, "stop"
                break
        self.tokens += tokens[:count]
        self.logprobs.append(values[:count, 0])
        if self.operation.topk_sample_logprobs:
            self.topk.append(_without_impossible(ids[:count, 1:], values[:count, 1:]))

    def _take_scores(self, flat: Any) -> None:
        k = self.operation.topk_prompt_logprobs
        # Of the first token there are none.
        ids, values = _table(flat, 1, k)
        _check_finite(values[:, 0])
        if self.operation.prompt_logprobs:
            self.scores = np.concatenate([np.full(1, np.nan, dtype=np.float32), values[:, 0]])
        if k > 0:
            first, rest = _empty(1, k), _without_impossible(ids[:, 1:], values[:, 1:])
            self.topk_prompt = (
                np.concatenate([first[0], rest[0]]),
                np.concatenate([first[1], rest[1]]),
            )


def scores_wanted(operation: SampleOperation) -> bool:
    """Whether the prompt's own tokens are to be scored."""
    return operation.prompt_logprobs or operation.topk_prompt_logprobs > 0


def sample_result(samples: list[Sample]) -> SampleResult:
    """The result of a request, from all its samples at their ends."""
    first, length = samples[0], len(samples[0].operation.prompt)
    scores, topk = first.scores, first.topk_prompt
    # A prompt of one token has nothing that vLLM could score.
    if first.operation.prompt_logprobs and scores is None:
        scores = np.full(length, np.nan, dtype=np.float32)
    if first.operation.topk_prompt_logprobs and topk is None:
        topk = _empty(length, first.operation.topk_prompt_logprobs)
    return SampleResult(
        sequences=[sample.result() for sample in samples],
        prompt_logprobs=scores,
        topk_prompt=topk,
        prompt_cache_hit_tokens=first.known,
    )


def _seed(seed: int, index: int) -> int:
    """Every sample number of a seed has a stream of its own."""
    digest = hashlib.sha256(f"tuft sampling {seed} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _table(flat: Any, skipped: int, k: int) -> Table:
    """vLLM's FlatLogprobs from position `skipped` on, as ids and logprobs [positions, 1 + k].

    In each row the token that is there, then the k most likely ones, which may include it.
    """
    count = len(flat) - skipped
    if len(flat.logprobs) == count * (k + 1):
        ids = np.array(flat.token_ids, dtype=np.int32).reshape(count, k + 1)
        return ids, np.array(flat.logprobs, dtype=np.float32).reshape(count, k + 1)
    # Where vLLM joined two outputs, a token that is there and among the k stands once.
    ids, values = _empty(count, k + 1)
    for row in range(count):
        begin, end = flat.start_indices[row + skipped], flat.end_indices[row + skipped]
        row_ids, row_values = flat.token_ids[begin:end], flat.logprobs[begin:end]
        if end - begin <= k:
            order = sorted(range(end - begin), key=lambda place: -row_values[place])
            row_ids = [row_ids[0], *(row_ids[place] for place in order)]
            row_values = [row_values[0], *(row_values[place] for place in order)]
        ids[row, : len(row_ids)], values[row, : len(row_values)] = row_ids, row_values
    return ids, values


def _empty(rows: int, k: int) -> Table:
    return (
        np.full((rows, k), EMPTY_TOKEN, dtype=np.int32),
        np.full((rows, k), EMPTY_LOGPROB, dtype=np.float32),
    )


def _without_impossible(ids: npt.NDArray[np.int32], values: Floats) -> Table:
    """With empty cells for what has probability 0."""
    possible = ~np.isneginf(values)
    return (
        np.where(possible, ids, EMPTY_TOKEN).astype(np.int32),
        np.where(possible, values, EMPTY_LOGPROB).astype(np.float32),
    )


def _check_finite(logprobs: Floats) -> None:
    """Of tokens that are there. Minus infinity is a token that the model deems impossible."""
    if bool((np.isnan(logprobs) | np.isposinf(logprobs)).any()):
        raise NotFiniteError
