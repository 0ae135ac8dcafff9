"""A request inside the transformers engine, and the samples it is made of."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Generator, Tensor

from tuft.contracts.operations import SampleOperation, SamplingParams
from tuft.contracts.wire import SampledSequence, SampleResult
from tuft.modeling.lora import Adapter
from tuft.sampling.cache import CacheRow, Prefix
from tuft.sampling.distributions import random_stream, uniform
from tuft.sampling.prompt_scores import PromptScores
from tuft.sampling.recent_prompts import Owner
from tuft.sampling.stops import StopCondition


@dataclass(eq=False)
class Request:
    """One asample request: a prompt that is read once, then `num_samples` sequences."""

    operation: SampleOperation
    adapter: Adapter | None
    limit: int
    """Tokens a sample may have: max_tokens, or what is left of the context."""
    prefix: Prefix
    scores: PromptScores | None
    logits: Tensor | None = None
    """After the prompt, float32 [vocab], while there are samples that did not start."""
    samples: list[Sample] = field(default_factory=list)
    """Those that did not start."""
    finished: dict[int, SampledSequence] = field(default_factory=dict)
    known: int = 0
    """Prompt tokens that were not read again."""
    expected: int | None = None
    """Those that would not have to be when it was first thought of; None: not yet."""

    @property
    def owner(self) -> Owner:
        return self.operation.tenant, self.operation.policy

    @property
    def params(self) -> SamplingParams:
        return self.operation.params

    @property
    def unread(self) -> int:
        """Prompt tokens that the model has not seen."""
        return len(self.operation.prompt) - self.prefix.filled

    @property
    def done(self) -> bool:
        return len(self.finished) == self.operation.num_samples

    def forget_prompt(self) -> None:
        """All samples have started: they have their own copies."""
        self.logits = None
        self.prefix = Prefix(0, 0)

    def result(self) -> SampleResult:
        return SampleResult(
            sequences=[self.finished[index] for index in range(self.operation.num_samples)],
            prompt_logprobs=self.scores.logprobs if self.scores else None,
            topk_prompt=self.scores.topk if self.scores else None,
            prompt_cache_hit_tokens=self.known,
        )


@dataclass(eq=False)
class Sample:
    """One sequence of a request, from its first token on."""

    request: Request
    index: int
    stop: StopCondition
    stream: Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    topk_ids: list[npt.NDArray[np.int32]] = field(default_factory=list)
    topk_logprobs: list[npt.NDArray[np.float32]] = field(default_factory=list)
    cache: CacheRow | None = None
    """None until it takes part in decode steps."""

    @classmethod
    def of(cls, request: Request, index: int, stop: StopCondition) -> Sample:
        seed = request.params.seed
        stream = random_stream(secrets.randbits(63) if seed is None else seed, index)
        return cls(request=request, index=index, stop=stop, stream=stream)

    @property
    def row(self) -> CacheRow:
        assert self.cache is not None, "the sample is not in the batch"
        return self.cache

    def uniform(self) -> float:
        """Its random number for the next token; greedy sampling uses none."""
        return uniform(self.stream) if self.request.params.temperature > 0 else 0.0

    def take(self, token: int, logprob: float) -> bool:
        """Append a token; True where the sample is complete."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.stop.reached(token):
            self._finish("stop")
        elif len(self.tokens) == self.request.limit:
            self._finish("length")
        return self.index in self.request.finished

    def finish_empty(self) -> None:
        """For a prompt that leaves no room for a token."""
        self._finish("length")

    def _finish(self, reason: str) -> None:
        k = self.request.operation.topk_sample_logprobs
        topk = None
        if k > 0:
            topk = (
                np.array(self.topk_ids, dtype=np.int32).reshape(-1, k),
                np.array(self.topk_logprobs, dtype=np.float32).reshape(-1, k),
            )
        self.request.finished[self.index] = SampledSequence(
            tokens=np.array(self.tokens, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            stop_reason=reason,
            topk=topk,
        )
