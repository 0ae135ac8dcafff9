"""The vLLM engine: vLLM schedules and computes in its own processes; here are its requests.

Every sample of a request is a request of vLLM's, with its own seed. What vLLM means otherwise
than the Tinker API is settled here (stop strings, what logprobs are of) or refused.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from tuft.contracts.operations import SampleOperation
from tuft.contracts.policies import Content
from tuft.contracts.records import ModelInfo
from tuft.contracts.vllm import check_temperature
from tuft.errors import InvalidRequest, TuftError
from tuft.modeling.loading import PreTrainedModel
from tuft.sampling.engine import Finished
from tuft.sampling.stops import Detokenizer
from tuft.sampling.validation import check_request, diverged
from tuft.sampling.vllm_link import VllmLink
from tuft.sampling.vllm_policies import Policy, VllmPolicies
from tuft.sampling.vllm_requests import NotFiniteError, Sample, sample_result, scores_wanted

# How long a step waits for something to end, and a new request for the step: less than vLLM takes
# for a token, and more than a fraction of a core goes into asking for new requests.
_STEP_S = {"cpu": 0.04, "cuda": 0.005}
_ENDS = ("stop", "length")


@dataclass(eq=False)
class _Request:
    operation: SampleOperation
    policy: Policy | None
    samples: list[Sample]
    running: int
    """Samples that vLLM has to compute and that did not end."""
    error: TuftError | None = None


class VllmEngine:
    """See `tuft.sampling.engine.Engine`, which it implements."""

    def __init__(
        self,
        arguments: Mapping[str, Any],
        model: PreTrainedModel,
        info: ModelInfo,
        detokenizer: Detokenizer | None,
        max_policies: int,
        device: str,
    ) -> None:
        """
        Args:
            arguments: of vLLM's AsyncEngineArgs.
            model: the base model without weights (on the meta device), to check adapters with.
            info: of this model.
            detokenizer: None where the model has no tokenizer: stop strings are refused then.
            max_policies: policies that may sample at a time; vLLM's `max_loras`, or one less.
            device: "cpu" or "cuda".

        Raises:
            ConfigError, VllmEnded: vLLM can't start.
        """
        self._info = info
        self._detokenizer = detokenizer
        self._max_sequences = int(arguments["max_num_seqs"])
        self._step_s = _STEP_S[device]
        self._link = VllmLink(arguments)
        self._policies = VllmPolicies(
            self._link,
            model,
            slots=max_policies,
            reserve=int(arguments["max_loras"]) > max_policies,
            max_rank=int(arguments["max_lora_rank"]),
        )
        self._loaded: dict[str, Policy] = {}
        self._waiting: deque[_Request] = deque()
        """Their policies have no slot; in order of arrival."""
        self._diverged: Counter[tuple[str, str | None]] = Counter()
        self._load = 0
        self._done: list[Finished] = []

    @property
    def capacity(self) -> int:
        return self._max_sequences

    @property
    def load(self) -> int:
        return self._load + len(self._done)

    def load_policy(self, policy: str, files: Mapping[str, Content]) -> None:
        self._loaded[policy] = self._policies.load(policy, files)

    def drop_policy(self, policy: str) -> None:
        self._policies.drop(self._loaded.pop(policy))

    def submit(self, request: SampleOperation) -> None:
        check_request(request, self._info, self._detokenizer)
        check_temperature(request.params)
        policy = None if request.policy is None else self._loaded[request.policy]
        if policy is not None and policy.lora is None:
            self._done.append(Finished(request.request_id, diverged(request)))
            return
        room = self._info.max_model_len - len(request.prompt)
        limit = max(0, min(request.params.max_tokens, room))
        samples = [
            Sample.of(request, index, limit, self._detokenizer, self._salt(request))
            for index in range(request.num_samples)
        ]
        # Where there is no room for tokens, only the first reads the prompt, for its scores.
        running = len(samples) if limit else int(scores_wanted(request))
        if not running:
            self._done.append(Finished(request.request_id, sample_result(samples)))
            return
        self._load += running
        self._waiting.append(_Request(request, policy, samples, running))
        if policy is not None:
            self._policies.hold(policy)
        self._start_waiting()

    def step(self) -> Sequence[Finished]:
        self._link.poll(0.0 if self._done else self._step_s)
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        self._link.close()

    def _salt(self, request: SampleOperation) -> str:
        """Tenants do not share what is cached: time would tell of it."""
        return f"{self._diverged[request.tenant, request.policy]} {request.tenant}"

    def _start_waiting(self) -> None:
        """Start what may. Behind a policy that waits for a slot, only base models' requests do:
        others would keep slots taken for ever.
        """
        kept: deque[_Request] = deque()
        for request in self._waiting:
            if request.policy is not None:
                if kept or not self._policies.may_enter(request.policy):
                    kept.append(request)
                    continue
                self._policies.enter(request.policy)
            asked = request.samples[: request.running]
            for sample in asked:
                self._link.start(self._run(request, sample))
        self._waiting = kept

    async def _run(self, request: _Request, sample: Sample) -> None:
        """Sample one sequence, in the thread of vLLM's loop: all but the sample is the other's."""
        error: TuftError | None = None
        finite = True
        lora = request.policy.lora if request.policy else None
        try:
            outputs = self._link.generate(sample.vllm_id, sample.prompt, sample.params(), lora)
            async with aclosing(outputs):
                async for output in outputs:
                    sample.take(output)
                    if sample.reason is not None:
                        break
            if sample.reason not in _ENDS:
                error = TuftError(f"vLLM ended the request with {sample.reason!r}")
        except NotFiniteError:
            error, finite = diverged(sample.operation), False
        except ValueError as refused:
            error = InvalidRequest(f"vLLM refuses the request: {refused}")
        # By now vLLM has been told where it was to stop: the policy's weights may go.
        self._link.tell(lambda: self._ended(request, error, finite=finite))

    def _ended(self, request: _Request, error: TuftError | None, *, finite: bool) -> None:
        """One of the request's samples came to its end. The first error is the request's."""
        if not finite:
            # What was read of this prompt is in vLLM's cache, cleaned of NaN, and wrong.
            self._diverged[request.operation.tenant, request.operation.policy] += 1
        if error is not None and request.error is None:
            request.error = error
            self._link.start(self._link.abort([sample.vllm_id for sample in request.samples]))
        request.running -= 1
        self._load -= 1
        if request.running:
            return
        if request.policy is not None:
            self._policies.leave(request.policy)
            self._start_waiting()
        outcome = request.error or sample_result(request.samples)
        self._done.append(Finished(request.operation.request_id, outcome))
