"""A training run that another process made: attach to it, and write to it exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuft_sdk.errors import (
    ConfigurationError,
    LeaseLost,
    OperationFailed,
    ResultExpired,
    translated,
)
from tuft_sdk.extension import STEP_KEY_HEADER, WRITER_EPOCH_HEADER, ExtensionClient
from tuft_sdk.ledger import Attempt, Finished, Fresh, Resubmit, StepLedger

if TYPE_CHECKING:
    import tinker
    from tinker import types

    from tuft_sdk.plans import Operation, Plan


class AttachedRun:
    """A training run, with this process as its one writer.

    Attributes:
        writer_epoch: the service refuses writers with an older one.
        next_seq_id: the first seq_id that no step of this process has taken; what is submitted
            in other ways is not counted.
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

        Where the service fails an operation through no fault of the request, another attempt
        at the part of the plan that was not executed is recorded, which a retry makes. So it is
        where another step went on with the run before this one, which had died, was retried.

        Where another process attaches in the middle and finishes the step, this is its result.

        Raises:
            LeaseLost: a newer writer attached. Transient: try again. Rejected: never.
        """
        self._sign(step_key)
        try:
            return self._execute_once(step_key, build, conclude, timeout_s)
        except LeaseLost as error:
            result = self.ledger.result_of(step_key)
            if result is not None:
                return result
            raise self._lost(step_key, error) from error

    def _execute_once(
        self,
        step_key: str,
        build: Callable[[], Plan],
        conclude: Callable[[Plan, list[Any]], str],
        timeout_s: float | None,
    ) -> str:
        from tuft_sdk.plans import Plan

        state = self.ledger.begin_step(step_key, first_seq_id=self.next_seq_id)
        match state:
            case Finished():
                return state.result
            case Resubmit():
                plan = Plan.decode(state.plan)
                attempts = self._attempts(step_key, plan, state)
            case Fresh():
                plan, attempts = build(), [Attempt(0, self.next_seq_id)]
                self.ledger.record_plan(step_key, plan.encode(), first_seq_id=self.next_seq_id)
        results: list[Any] = []
        for number, attempt in enumerate(attempts):
            # What a later attempt begins with was not executed by this one.
            end = min(
                (later.first_operation for later in attempts[number + 1 :]),
                default=len(plan.operations),
            )
            stages = plan.stages(attempt.first_operation, end)
            if stages:
                results += self._attempt(step_key, attempts, number, stages, timeout_s)
        return self.ledger.finish(step_key, conclude(plan, results))

    def _sign(self, step_key: str) -> None:
        """Send the step key along, so that checkpoints tell which step made them."""
        if not (step_key.isascii() and step_key.isprintable() and 0 < len(step_key) <= 500):
            raise ConfigurationError(
                f"step key {step_key[:60]!r}: give 1 to 500 printable ASCII characters"
            )
        self._headers[STEP_KEY_HEADER] = step_key
        if "service" in self.__dict__:
            from tuft_sdk._sdk_internals import set_header

            set_header(self.service, STEP_KEY_HEADER, step_key)

    def _attempts(self, step_key: str, plan: Plan, state: Resubmit) -> list[Attempt]:
        """The attempts so far, and a new one where another step took the newest one's place."""
        attempts, newest = list(state.attempts), state.attempts[-1]
        if state.overtaken_at is None:
            return attempts
        # Each is journalled before the next is sent, and clearing the gradients came first.
        submitted = max(0, state.overtaken_at - newest.first_seq_id - 1)
        reached = newest.first_operation
        for stage in plan.stages(reached):
            if reached + len(stage) > newest.first_operation + submitted:
                attempt = Attempt(reached, self.next_seq_id)
                self.ledger.record_attempt(step_key, len(attempts), attempt)
                return [*attempts, attempt]
            reached += len(stage)
        return attempts

    def _attempt(
        self,
        step_key: str,
        attempts: Sequence[Attempt],
        number: int,
        stages: Sequence[Sequence[Operation]],
        timeout_s: float | None,
    ) -> list[Any]:
        attempt = attempts[number]
        client = self.begin_plan(attempt.first_seq_id, f"{step_key}#{number + 1}")
        results: list[Any] = []
        for stage in stages:
            try:
                results += run_stage(client, stage, timeout_s)
            except OperationFailed:
                taken = attempt.first_seq_id + 1 + len(results) + len(stage)
                again = Attempt(
                    attempt.first_operation + len(results), max(taken, self.next_seq_id)
                )
                self.ledger.record_attempt(step_key, len(attempts), again)
                raise
        # So that one attachment can execute one step after another.
        self.next_seq_id = max(self.next_seq_id, attempt.first_seq_id + 1 + len(results))
        return results

    def _lost(self, step_key: str, error: LeaseLost) -> LeaseLost:
        return LeaseLost(
            f"lease lost: another process attached to training run {self.run_id} and is its only "
            f"writer now; step {step_key!r} was not finished. If that process executes the same "
            "step, the step has its result when it is done, also for a retry of this one "
            f"({error.message})",
            code=error.code,
        )

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
    from tuft_sdk.plans import Forward, ForwardBackward, OptimStep, SaveForSampler, SaveState

    match operation:
        case Forward():
            return client.forward(
                list(operation.data), operation.loss_fn, dict(operation.loss_fn_config)
            )
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
