"""The steps of a fine-tuning, each through the run's ledger and so exactly once.

    {step_key}/begin        what is trained, so that another fine-tuning can't be taken for it
    {step_key}/eval/{n}/{k} the loss of part k of the held-out rows after n steps
    {step_key}/{n}          optimizer step n
    {step_key}/final        checkpoint and policy

A process that is started again looks each up, takes the run from nobody while it finds results,
and goes on with the first step that has none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

import tuft_sdk
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.sft.examples import Batches, Examples

if TYPE_CHECKING:
    from tinker import types

    from tuft_sdk.plans import Operation, Plan

_MEASURED_AT_ONCE = 64
"""Rows of an evaluation in one step of the ledger, whose plan has all their tokens."""

Reduction = Literal["mean", "sum"]


class Writer:
    """Executes steps of a run; attaches to it only when there is something to do."""

    def __init__(self, client: tuft_sdk.TuftClient, run_id: str, timeout_s: float) -> None:
        self._client = client
        self._run_id = run_id
        self._timeout_s = timeout_s
        self._ledger = tuft_sdk.StepLedger(client.extension, run_id)
        self._attached: tuft_sdk.AttachedRun | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    def result_of(self, step_key: str) -> str | None:
        return self._ledger.result_of(step_key)

    def once(
        self,
        step_key: str,
        build: Callable[[tuft_sdk.AttachedRun], Plan],
        conclude: Callable[[Plan, list[Any]], str],
    ) -> str:
        """As `tuft_sdk.AttachedRun.execute_once`."""
        if self._attached is None:
            result = self._ledger.result_of(step_key)
            if result is not None:
                return result
            self._attached = self._client.attach(self._run_id)
        attached = self._attached
        return attached.execute_once(
            step_key, lambda: build(attached), conclude, timeout_s=self._timeout_s
        )


@dataclass(frozen=True)
class StepDone:
    """What the ledger keeps of an optimizer step; None where the service's result expired."""

    loss: float | None
    """Per token that is trained on, whatever the reduction."""
    tokens: int
    learning_rate: float
    grad_norm: float | None


def begin(
    writer: Writer, step_key: str, what: Mapping[str, Any], check: Callable[[], None]
) -> None:
    """Record what is trained under this step key; where nothing was recorded yet, after `check`.

    Raises:
        BadConfiguration: something else was recorded.
    """
    from tuft_sdk.plans import Plan

    key, text = f"{step_key}/begin", json.dumps(what, sort_keys=True)
    recorded = writer.result_of(key)
    if recorded is None:
        check()
        recorded = writer.once(key, lambda _attached: Plan([]), lambda _plan, _results: text)
    if recorded != text:
        other = json.loads(recorded)
        names = sorted(name for name in {*what, *other} if what.get(name) != other.get(name))
        raise BadConfiguration(
            f"step_key {step_key!r} of this run stands for another fine-tuning, with other "
            f"{', '.join(names)}. Go on with what was given then, or give this one a step_key of "
            "its own"
        )


def train_step(
    writer: Writer,
    step_key: str,
    rows: Callable[[], Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]]],
    adam: types.AdamParams,
    reduction: Reduction,
) -> StepDone:
    """One optimizer step on rows of (tokens, whether each is trained on).

    Raises:
        BadData: its loss is not finite.
    """
    from tuft_sdk.plans import ForwardBackward, OptimStep, Plan

    def build(attached: tuft_sdk.AttachedRun) -> Plan:
        batch = rows()
        tokens = int(sum(trained.sum() for _, trained in batch))
        weight = 1.0 / tokens if reduction == "mean" else 1.0
        data = [datum_of(row, trained, weight) for row, trained in batch]
        operations: list[Operation] = [
            ForwardBackward(chunk, "cross_entropy") for chunk in attached.chunks(data)
        ]
        notes = {"tokens": tokens, "weight": weight}
        return Plan([*operations, OptimStep(adam)], notes)

    def conclude(plan: Plan, results: list[Any]) -> str:
        *passes, step = results
        tokens, loss = int(plan.notes["tokens"]), None
        if all(result is not None for result in passes):
            total = sum(float(result.metrics["loss:sum"]) for result in passes)
            loss = total / float(plan.notes["weight"]) / tokens
            if not math.isfinite(loss):
                raise BadData(
                    f"the loss of step {step_key} is {loss}: begin again in a new run with a "
                    "smaller learning_rate or a longer warm-up"
                )
        grad_norm = None if step is None else (step.metrics or {}).get("grad_norm")
        return json.dumps(
            {
                "loss": loss,
                "tokens": tokens,
                "learning_rate": adam.learning_rate,
                "grad_norm": grad_norm,
            }
        )

    return StepDone(**json.loads(writer.once(step_key, build, conclude)))


def measure(writer: Writer, step_key: str, examples: Examples, rows: Sequence[int]) -> float | None:
    """The loss per token of some rows; None where a result expired.

    Raises:
        BadData: it is not finite.
    """
    from tuft_sdk.plans import Forward, Plan

    def conclude(_plan: Plan, results: list[Any]) -> str:
        if any(result is None for result in results):
            return "null"
        return json.dumps(sum(float(result.metrics["loss:sum"]) for result in results))

    total, tokens = 0.0, 0
    for part, begin in enumerate(range(0, len(rows), _MEASURED_AT_ONCE)):
        batch = [examples.get(number) for number in rows[begin : begin + _MEASURED_AT_ONCE]]

        def build(
            attached: tuft_sdk.AttachedRun,
            batch: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]] = batch,
        ) -> Plan:
            data = [datum_of(row, trained, 1.0) for row, trained in batch]
            return Plan([Forward(chunk, "cross_entropy") for chunk in attached.chunks(data)])

        loss = json.loads(writer.once(f"{step_key}/{part}", build, conclude))
        if loss is None:
            return None
        total += loss
        tokens += int(sum(trained.sum() for _, trained in batch))
    if not math.isfinite(total):
        raise BadData(f"the loss of {step_key} is {total}: the policy's weights are not finite")
    return total / tokens


def datum_of(
    tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_], weight: float
) -> types.Datum:
    """Position i of the input predicts token i + 1, with `weight` where that one is trained on."""
    from tinker import types

    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1].tolist()),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_numpy(tokens[1:].astype(np.int64)),
            "weights": types.TensorData.from_numpy(trained[1:].astype(np.float32) * weight),
        },
    )


def batch_reader(
    examples: Examples, batches: Batches, step: int
) -> Callable[[], list[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]]]:
    """The rows of a step, read when they are needed: those of finished steps never are."""
    return lambda: [examples.get(number) for number in batches.rows_of(step)]
