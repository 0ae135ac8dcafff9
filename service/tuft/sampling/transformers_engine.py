"""The transformers engine: continuous batching on one process' device.

Each step reads the next waiting prompts, a bounded number of tokens, then decodes one token of
every running sequence. A prompt is read once, whatever its number of samples. Rows are ordered
by policy, so that LoRA layers see each policy's rows as one segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tuft.contracts.operations import SampleOperation
from tuft.contracts.policies import Content
from tuft.contracts.records import ModelInfo
from tuft.modeling.adapters import adapter_from_files
from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import Adapter
from tuft.sampling.cache import Cache, Prefix, capacity_for
from tuft.sampling.distributions import draw, top_of
from tuft.sampling.engine import Finished
from tuft.sampling.memory import bytes_per_cell
from tuft.sampling.prompt_scores import PromptScores, positions_at_a_time
from tuft.sampling.recent_prompts import RecentPrompts
from tuft.sampling.requests import Request, Sample
from tuft.sampling.runner import Chunk, DecodeRow, Reading, Runner
from tuft.sampling.stops import Detokenizer, StopCondition
from tuft.sampling.validation import check_request, diverged

# At least this part of a prefill batch must be real tokens.
_PREFILL_FILL = 0.75


class TransformersEngine:
    """See `tuft.sampling.engine.Engine`, which it implements."""

    def __init__(
        self,
        model: PreTrainedModel,
        info: ModelInfo,
        detokenizer: Detokenizer | None,
        *,
        max_sequences: int,
        max_cells: int,
        prefill_tokens: int | None = None,
    ) -> None:
        """
        Args:
            model: from `load_base`; the engine changes it and is its only user.
            info: of this model.
            detokenizer: None where the model has no tokenizer: stop strings are refused then.
            max_sequences: sequences decoded together.
            max_cells: positions of all of them together that the cache may hold. One sequence
                is always let in. Half of what is free of them, and an eighth more, is for
                prompts read a moment ago.
            prefill_tokens: prompt tokens read between two decode steps, padding included.

        Raises:
            ConfigError: this architecture is not served.
        """
        self._runner = Runner(model)
        self._info = info
        self._detokenizer = detokenizer
        self._max_sequences = max_sequences
        self._max_cells = max_cells
        self._prefill_tokens = prefill_tokens or _prefill_tokens(self._runner.device)
        self._policies: dict[str, Adapter] = {}
        self._cache = Cache(self._runner.layers)
        self._recent = RecentPrompts(max_cells // 2 + max_cells // 8, bytes_per_cell(model))
        self._unread: deque[Request] = deque()
        self._read: deque[Request] = deque()
        self._running: list[Sample] = []
        self._cells = 0
        self._read_a_piece = False

    @property
    def capacity(self) -> int:
        return self._max_sequences

    @property
    def load(self) -> int:
        waiting = sum(len(request.samples) for request in (*self._unread, *self._read))
        return waiting + len(self._running)

    def load_policy(self, policy: str, files: Mapping[str, Content]) -> None:
        adapter = adapter_from_files(self._runner.model, files)
        self._policies[policy] = adapter.requires_grad_(False)

    def drop_policy(self, policy: str) -> None:
        del self._policies[policy]
        self._recent.drop_policy(policy)

    def submit(self, request: SampleOperation) -> None:
        check_request(request, self._info, self._detokenizer)
        prompt = request.prompt
        scores = None
        if request.prompt_logprobs or request.topk_prompt_logprobs > 0:
            scores = PromptScores(prompt, request.prompt_logprobs, request.topk_prompt_logprobs)
        entry = Request(
            operation=request,
            adapter=None if request.policy is None else self._policies[request.policy],
            limit=max(0, min(request.params.max_tokens, self._info.max_model_len - len(prompt))),
            prefix=Prefix(len(prompt), self._runner.layers),
            scores=scores,
        )
        for index in range(request.num_samples):
            stop = StopCondition(request.params, self._detokenizer)
            entry.samples.append(Sample.of(entry, index, stop))
        self._unread.append(entry)

    @torch.inference_mode()
    def step(self) -> Sequence[Finished]:
        done = self._read_prompts()
        done += self._start_samples()
        done += self._decode()
        return done

    def close(self) -> None:
        """Nothing runs beside this process."""

    # Reading prompts

    def _read_prompts(self) -> list[Finished]:
        done: list[Finished] = []
        batch: list[Request] = []
        while not batch:
            candidates = self._next_prompts()
            if not candidates:
                return done
            batch = [request for request in candidates if not self._recall(request)]
            if not batch:
                # All were known: they start, and this step still reads others.
                done += self._start_samples()
        starts = [request.prefix.filled for request in batch]
        reading = self._runner.read([self._chunk(request) for request in batch])
        self._score(batch, starts, reading)
        logits = reading.last()
        for request, row, finite in zip(batch, logits, _finite(logits), strict=True):
            if not finite:
                self._unread.remove(request)
                done.append(_not_finite(request))
            elif not request.unread:
                after = row.clone()
                self._recent.add(request.owner, request.operation.prompt, request.prefix, after)
                self._is_read(request, after)
        return done

    def _chunk(self, request: Request) -> Chunk:
        start = request.prefix.filled
        tokens = request.operation.prompt[start : start + self._prefill_tokens]
        return Chunk(tokens, request.prefix, request.adapter)

    def _recall(self, request: Request) -> bool:
        """Take over what was read before; True where that is the whole prompt."""
        # Scores need the logits of all positions.
        if request.prefix.filled or request.scores is not None:
            return False
        prompt = request.operation.prompt
        whole = self._recent.whole(request.owner, prompt)
        if whole is not None:
            request.prefix, request.known = whole.prefix, len(prompt)
            self._is_read(request, whole.logits)
            return True
        found = self._recent.beginning(request.owner, prompt)
        if found is not None:
            request.prefix.copy(found[0].prefix, found[1])
            request.known = found[1]
        return False

    def _is_read(self, request: Request, logits: Tensor) -> None:
        self._unread.remove(request)
        request.logits = logits
        # One that needs no place in the batch does not wait behind those that do.
        (self._read.appendleft if request.limit <= 1 else self._read.append)(request)

    def _next_prompts(self) -> list[Request]:
        """The next pass: the first request, and others that go well with it.

        While samples wait for a place in the batch, only requests that need none are read. The
        same prompt twice is left to the next pass, which finds it read.
        """
        waiting = [each for each in self._unread if not self._read or each.limit <= 1]
        if not waiting:
            return []
        first = waiting[0]
        if self._read_a_piece:
            # Short prompts go between the pieces of a long one.
            first = next((each for each in waiting if self._is_short(each)), first)
        self._read_a_piece = not self._is_short(first)
        batch = [first]
        longest = total = self._to_read(first)
        for other in waiting:
            if longest * (len(batch) + 1) > self._prefill_tokens:
                break
            if (
                other is first
                or (other.scores is None) != (first.scores is None)
                or any(_same_prompt(other, each) for each in batch)
            ):
                continue
            unread = self._to_read(other)
            longest_then, total_then = max(longest, unread), total + unread
            padded = longest_then * (len(batch) + 1)
            if padded <= self._prefill_tokens and total_then >= _PREFILL_FILL * padded:
                batch.append(other)
                longest, total = longest_then, total_then
        return sorted(batch, key=lambda each: each.operation.policy or "")

    def _to_read(self, request: Request) -> int:
        """Tokens that a request will have to read, as far as can be said before its turn.

        Turns of conversations are short, however long the conversations are: taken for whole
        prompts they would go one by one.
        """
        if request.prefix.filled or request.scores is not None:
            return request.unread
        if request.expected is None:
            request.expected = self._recent.known(request.owner, request.operation.prompt)
        return request.unread - request.expected

    def _is_short(self, request: Request) -> bool:
        """Whether one pass reads all that is unread."""
        return self._to_read(request) <= self._prefill_tokens

    def _score(self, batch: Sequence[Request], starts: Sequence[int], reading: Reading) -> None:
        if batch[0].scores is None:
            return
        at_a_time = positions_at_a_time(len(batch), self._info.vocab_size)
        for begin in range(0, reading.width, at_a_time):
            logits = reading.span(begin, begin + at_a_time)
            for request, start, rows in zip(batch, starts, logits, strict=True):
                assert request.scores is not None
                request.scores.add(start + begin, rows)

    # Starting samples

    def _start_samples(self) -> list[Finished]:
        done: list[Finished] = []
        while self._read:
            request = self._read[0]
            count = self._places(request)
            if count == 0:
                break
            starting, request.samples = request.samples[:count], request.samples[count:]
            self._start(request, starting)
            if not request.samples:
                self._read.popleft()
                request.forget_prompt()
            if request.done:
                done.append(Finished(request.operation.request_id, request.result()))
        return done

    def _places(self, request: Request) -> int:
        """How many of the request's waiting samples can start now."""
        if request.limit <= 1:
            return len(request.samples)
        rows = self._max_sequences - len(self._running)
        cells = (self._max_cells - self._cells) // self._cells_of(request)
        if cells <= 0 and not self._running:
            cells = 1
        return max(0, min(rows, cells, len(request.samples)))

    def _start(self, request: Request, samples: Sequence[Sample]) -> None:
        if request.limit == 0:
            for sample in samples:
                sample.finish_empty()
            return
        assert request.logits is not None
        logits = request.logits.expand(len(samples), -1)
        going_on = self._take(samples, logits)
        self._occupy(len(going_on) * self._cells_of(request))
        for sample in going_on:
            sample.cache = self._cache.add(request.prefix)
            self._running.append(sample)

    def _cells_of(self, request: Request) -> int:
        """What one sample of the request may come to occupy."""
        return capacity_for(len(request.operation.prompt) + request.limit)

    # Decoding

    def _decode(self) -> list[Finished]:
        if not self._running:
            return []
        for sample in self._running:
            self._cache.make_room(sample.row)
        self._running.sort(key=_batch_order)
        batch = self._running
        rows = [DecodeRow(each.tokens[-1], each.row, each.request.adapter) for each in batch]
        logits = self._runner.decode(rows)
        done = self._fail_bad_rows(logits)
        if done:
            kept = [index for index, sample in enumerate(batch) if sample.cache is not None]
            batch, logits = [batch[index] for index in kept], logits[kept]
        going_on = set(map(id, self._take(batch, logits)))
        ended = [sample for sample in batch if id(sample) not in going_on]
        for sample in ended:
            self._leave(sample)
        self._running = [sample for sample in batch if id(sample) in going_on]
        # Several samples of a request may end together: it finishes once.
        requests = dict.fromkeys(sample.request for sample in ended if sample.request.done)
        return done + [
            Finished(request.operation.request_id, request.result()) for request in requests
        ]

    def _fail_bad_rows(self, logits: Tensor) -> list[Finished]:
        """Take requests with a row that is not finite out; nobody else's row is touched."""
        rows = zip(self._running, _finite(logits), strict=True)
        bad = dict.fromkeys(sample.request for sample, finite in rows if not finite)
        for request in bad:
            if request in self._read:
                self._read.remove(request)
        for sample in self._running:
            if sample.request in bad:
                self._leave(sample)
        return [_not_finite(request) for request in bad]

    def _take(self, samples: Sequence[Sample], logits: Tensor) -> list[Sample]:
        """Draw the next token of each sample; those that go on."""
        if not samples:
            return []
        params = [sample.request.params for sample in samples]
        drawn = draw(logits, params, [sample.uniform() for sample in samples])
        self._take_topk(samples, drawn.distribution)
        tokens, logprobs = drawn.tokens.tolist(), drawn.logprobs.tolist()
        each = zip(samples, tokens, logprobs, strict=True)
        return [sample for sample, token, logprob in each if not sample.take(token, logprob)]

    def _take_topk(self, samples: Sequence[Sample], distribution: Tensor) -> None:
        wanted = [sample.request.operation.topk_sample_logprobs for sample in samples]
        rows = [row for row, k in enumerate(wanted) if k > 0]
        if not rows:
            return
        ids, values = top_of(distribution[rows], max(wanted))
        for row, row_ids, row_values in zip(rows, ids.cpu(), values.cpu(), strict=True):
            samples[row].topk_ids.append(row_ids[: wanted[row]].numpy())
            samples[row].topk_logprobs.append(row_values[: wanted[row]].numpy())

    def _leave(self, sample: Sample) -> None:
        self._cache.remove(sample.row)
        sample.cache = None
        self._occupy(-self._cells_of(sample.request))

    def _occupy(self, cells: int) -> None:
        """By running sequences. Half of what they leave free is for prompts read a moment ago: the
        other half is air, for a cache that is copied while it grows.
        """
        self._cells += cells
        free = max(0, self._max_cells - self._cells)
        self._recent.allow(free // 2 + self._max_cells // 8)


def _batch_order(sample: Sample) -> tuple[str, int, int]:
    row = sample.row
    return (sample.request.operation.policy or "", row.slab.capacity, row.index)


def _prefill_tokens(device: torch.device) -> int:
    """As many as keep the device busy: more would only make running sequences wait."""
    return 256 if device.type == "cpu" else 2048


def _same_prompt(one: Request, other: Request) -> bool:
    return one.owner == other.owner and one.operation.prompt == other.operation.prompt


def _finite(logits: Tensor) -> list[bool]:
    """Per row of [n, vocab]: neither NaN nor plus infinity, and some token is possible."""
    flags: list[bool] = torch.isfinite(logits.logsumexp(-1)).tolist()
    return flags


def _not_finite(request: Request) -> Finished:
    return Finished(request.operation.request_id, diverged(request.operation))
