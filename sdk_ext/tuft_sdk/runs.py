"""A training run that another process made: attach to it, and write to it exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuft_sdk.errors import ConfigurationError, OperationFailed, ResultExpired, translated
from tuft_sdk.extension import STEP_KEY_HEADER, WRITER_EPOCH_HEADER, ExtensionClient
from tuft_sdk.ledger import Finished, Fresh, Resubmit, StepLedger, StepState

if TYPE_CHECKING:
    import tinker
    from tinker import types

    from tuft_sdk.plans import Operation, Plan


class AttachedRun:
    """A training run, with this process as its one writer.

    Attributes:
        writer_epoch: the service refuses writers with an older one.
        next_seq_id: the first seq_id that was free when this process attached.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        attached: Mapping[str, Any],
        *,
        deadline_s: float = 300.0,
    ) -> None:
        self.run_id: str = attached["run_id"]
        self.base_model: str = attached["base_model"]
        self.lora_rank: int = attached["lora_rank"]
        self.writer_epoch: int = attached["writer_epoch"]
        self.next_seq_id: int = attached["next_seq_id"]
        self._base_url = base_url
        self._api_key = api_key
        self._headers = {WRITER_EPOCH_HEADER: str(self.writer_epoch)}
        self._extension = ExtensionClient(
            base_url, api_key, headers=self._headers, deadline_s=deadline_s
        )
        self.ledger = StepLedger(self._extension, self.run_id, self.writer_epoch)

    @cached_property
    def service(self) -> tinker.ServiceClient:
        """A Tinker client whose every call carries this writer's epoch."""
        import tinker

        with translated():
            return tinker.ServiceClient(
                base_url=self._base_url,
                api_key=self._api_key,
                default_headers_overrides=self._headers,
            )

    @cached_property
    def training(self) -> tinker.TrainingClient:
        """A TrainingClient of the SDK that goes on at `next_seq_id`."""
        return self.training_from(self.next_seq_id)

    def training_from(self, seq_id: int) -> tinker.TrainingClient:
        """A TrainingClient of the SDK whose next request is `seq_id`."""
        from tuft_sdk._sdk_internals import training_client_for

        with translated():
            return training_client_for(self.service, self.run_id, seq_id)

    def chunks(self, data: Sequence[types.Datum]) -> list[list[types.Datum]]:
        """`data` split so that each piece is one request with one seq_id."""
        from tuft_sdk._sdk_internals import chunks_of

        return chunks_of(self.training, data)

    def close(self) -> None:
        self._extension.close()
        if "service" in self.__dict__:
            self.service.close("success").result()

    def execute_once(
        self,
        step_key: str,
        build: Callable[[], Plan],
        conclude: Callable[[Plan, list[Any]], str],
        *,
        timeout_s: float | None = None,
    ) -> str:
        """Execute a step at most once, however often this is called with its key.

        The step begins with cleared gradients: what a step that died left in the run, and
        nobody retried, is no part of this one's update.

        `build` makes the plan; it is called only where none was recorded. `conclude` makes the
        step's result from the plan and the operations' results, in order; a result is None where
        the operation was executed so long ago that its result has expired. `timeout_s` bounds
        the wait for each stage of the plan.

        Where the service fails an operation through no fault of the request, the part of the
        plan that was not executed is recorded as another attempt, so that a retry executes
        just that.

        Raises:
            LeaseLost: a newer writer attached. Transient: try again. Rejected: never.
        """
        from tuft_sdk.plans import Plan

        self._sign(step_key)
        attempt, state = self._newest_attempt(step_key)
        match state:
            case Finished():
                return state.result
            case Resubmit():
                plan, first_seq_id = Plan.decode(state.plan), state.first_seq_id
            case Fresh():
                plan, first_seq_id = build(), self.next_seq_id
                self.ledger.record_plan(step_key, plan.encode(), first_seq_id=first_seq_id)
        results = self._execute(plan, first_seq_id, timeout_s, _attempt_key(step_key, attempt + 1))
        return self.ledger.finish(step_key, conclude(plan, results))

    def _sign(self, step_key: str) -> None:
        """Send the step key along, so that checkpoints tell which step made them."""
        if not (step_key.isascii() and step_key.isprintable() and 0 < len(step_key) <= 500):
            raise ConfigurationError(
                f"step key {step_key[:60]!r}: give 1 to 500 printable ASCII characters"
            )
        if "service" not in self.__dict__:
            self._headers[STEP_KEY_HEADER] = step_key

    def _newest_attempt(self, step_key: str) -> tuple[int, StepState]:
        """Number and state of the step's newest attempt: there is one after each failed one."""
        attempt, state = 0, self.ledger.begin_step(step_key, first_seq_id=self.next_seq_id)
        while isinstance(state, Resubmit):
            newer = self.ledger.begin_step(_attempt_key(step_key, attempt + 1))
            if not isinstance(newer, Resubmit):
                break
            attempt, state = attempt + 1, newer
        return attempt, state

    def _execute(
        self, plan: Plan, first_seq_id: int, timeout_s: float | None, next_attempt: str
    ) -> list[Any]:
        from tuft_sdk.plans import Plan

        client = self.begin_plan(first_seq_id, next_attempt)
        results: list[Any] = []
        stages = plan.stages()
        for index, stage in enumerate(stages):
            try:
                results += run_stage(client, stage, timeout_s)
            except OperationFailed:
                left = [operation for later in stages[index:] for operation in later]
                sent = 1 + sum(len(earlier) for earlier in stages[: index + 1])
                self.ledger.begin_step(next_attempt)
                self.ledger.record_plan(
                    next_attempt,
                    Plan(operations=left, notes=plan.notes).encode(),
                    first_seq_id=max(first_seq_id + sent, self.next_seq_id),
                )
                raise
        return results

    def begin_plan(self, seq_id: int, key: str) -> tinker.TrainingClient:
        """Clear the run's gradients under `seq_id`; the client for the operations after it.

        It is journalled before them, so there is nothing to wait for. `key` keeps two steps
        that race for a seq_id apart.
        """
        self._extension.request(
            "POST",
            f"tuft/runs/{self.run_id}/clear_gradients",
            json={"seq_id": seq_id, "step_key": key},
        )
        return self.training_from(seq_id + 1)


def _attempt_key(step_key: str, attempt: int) -> str:
    """Attempt 0 is the step itself."""
    return f"{step_key}#{attempt}"


def run_stage(
    client: tinker.TrainingClient, stage: Sequence[Operation], timeout_s: float | None
) -> list[Any]:
    """Submit the operations together and wait for all; None stands for an expired result.

    The first failure in order is raised: those behind it are its consequences.
    """
    with translated():
        futures = [submit(client, operation) for operation in stage]
    give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
    results: list[Any] = []
    for future in futures:
        left = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
        try:
            with translated():
                results.append(future.result(timeout=left))
        except ResultExpired:
            results.append(None)
    return results


def submit(client: tinker.TrainingClient, operation: Operation) -> Any:
    """Submit one operation through the SDK; the future of its result."""
    from tuft_sdk.plans import ForwardBackward, OptimStep, SaveForSampler, SaveState

    match operation:
        case ForwardBackward():
            return client.forward_backward(
                list(operation.data), operation.loss_fn, dict(operation.loss_fn_config)
            )
        case OptimStep():
            return client.optim_step(operation.adam)
        case SaveForSampler():
            return client.save_weights_for_sampler(
                operation.name, ttl_seconds=operation.ttl_seconds
            )
        case SaveState():
            return client.save_state(operation.name, ttl_seconds=operation.ttl_seconds)
