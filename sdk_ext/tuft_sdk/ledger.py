"""The step ledger: what makes a retried step the same step.

A step is known by its key within a scope (a training run, or the tenant). The first execution
begins it, records what it is going to submit, submits, and finishes it with a result. A second
execution is told either the result, or what to submit again, under the same seq_ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuft_sdk.errors import NotThere
from tuft_sdk.extension import ExtensionClient

TENANT_SCOPE = "tenant"


@dataclass(frozen=True)
class Finished:
    """The step was finished; `result` is what its first execution recorded."""

    result: str


@dataclass(frozen=True)
class Attempt:
    """Operations of a plan, from number `first_operation` on, submitted from `first_seq_id` on."""

    first_operation: int
    first_seq_id: int


@dataclass(frozen=True)
class Resubmit:
    """Executions recorded `plan` and `attempts` at it, and may have submitted some of it.

    `overtaken_at`: from this seq_id on another step submitted since the newest attempt began.
    """

    plan: bytes
    attempts: tuple[Attempt, ...]
    overtaken_at: int | None = None


@dataclass(frozen=True)
class Fresh:
    """Nothing was submitted for this step yet."""


StepState = Finished | Resubmit | Fresh


class StepLedger:
    """The ledger of one scope: a run id, or `TENANT_SCOPE`.

    `writer_epoch` is needed for a run: the ledger refuses older writers (`LeaseLost`).
    """

    def __init__(
        self, extension: ExtensionClient, scope: str, writer_epoch: int | None = None
    ) -> None:
        self._extension = extension
        self._scope = scope
        self._writer_epoch = writer_epoch

    def result_of(self, step_key: str) -> str | None:
        """The result of a finished step, else None. Nobody has to be attached to look."""
        entry = self._extension.request("GET", "tuft/steps", params=self._address(step_key))
        return _result_of(entry.json()["entry"])

    def begin_step(self, step_key: str, *, first_seq_id: int | None = None) -> StepState:
        """Begin the step, or learn how far it got.

        Raises:
            LeaseLost: a newer writer attached to the run.
        """
        body = self._body(step_key)
        if first_seq_id is not None:
            body["first_seq_id"] = first_seq_id
        entry = self._extension.request("POST", "tuft/steps/begin", json=body).json()["entry"]
        result = _result_of(entry)
        if result is not None:
            return Finished(result=result)
        if not entry.get("plan_object"):
            return Fresh()
        try:
            plan = self._extension.request("GET", "tuft/steps/plan", params=self._address(step_key))
        except NotThere:
            # Another execution finished the step just now: then its plan goes.
            result = self.result_of(step_key)
            if result is None:
                raise
            return Finished(result=result)
        later = (Attempt(**attempt) for attempt in entry["attempts"])
        return Resubmit(
            plan=plan.content,
            attempts=(Attempt(0, entry["first_seq_id"]), *later),
            overtaken_at=entry["overtaken_at"],
        )

    def record_plan(self, step_key: str, plan: bytes, *, first_seq_id: int) -> None:
        """Record what is going to be submitted, before any of it is. The first plan stays.

        Raises:
            LeaseLost: a newer writer attached to the run.
        """
        params: dict[str, str | int] = {**self._address(step_key), "first_seq_id": first_seq_id}
        self._extension.request(
            "PUT",
            "tuft/steps/plan",
            params=params,
            content=plan,
            headers={"Content-Type": "application/octet-stream"},
        )

    def record_attempt(self, step_key: str, number: int, attempt: Attempt) -> None:
        """Record attempt `number` (the plan's own is 0), before any of it is submitted.

        Raises:
            LeaseLost: a newer writer attached to the run.
        """
        body = {**self._body(step_key), "number": number, **asdict(attempt)}
        self._extension.request("POST", "tuft/steps/attempt", json=body)

    def finish(self, step_key: str, result: str) -> str:
        """Record the result. Returns the recorded one: the first execution's."""
        body = {**self._body(step_key), "result": result}
        entry = self._extension.request("POST", "tuft/steps/finish", json=body).json()["entry"]
        recorded = entry.get("result")
        return result if recorded is None else str(recorded)

    def _address(self, step_key: str) -> dict[str, str]:
        return {"scope": self._scope, "step_key": step_key}

    def _body(self, step_key: str) -> dict[str, Any]:
        body: dict[str, Any] = self._address(step_key)
        if self._writer_epoch is not None:
            body["writer_epoch"] = self._writer_epoch
        return body


def _result_of(entry: Mapping[str, Any] | None) -> str | None:
    if entry is None or entry["state"] != "finished":
        return None
    return str(entry["result"] or "")
