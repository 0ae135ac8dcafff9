"""The ledger of steps: under its step key, a step that is run again finds its first execution."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tuft.contracts.records import Disposable, LedgerAttempt, LedgerEntry
from tuft.errors import NotFound, StaleWriter
from tuft.store import keys
from tuft.store.connection import Arg, Connection, integer, items, mapping, script, text, texts

MAX_ENTRIES = 10_000
"""Steps kept per scope; beyond, the oldest are forgotten, finished ones first."""

_TENANT = "tenant:"
_SCANNED_AT_ONCE = 500


class Ledger:
    """Entries by scope (a run id, or `tenant:{tenant}`) and step key.

    In a run's scope a writer epoch is checked as the journal does, None counting as 0 (nobody
    attached). What is recorded first stays.

    Raises (every method that writes):
        StaleWriter: not the run's newest writer.
        NotFound: no such run, or (but for `begin`) no such step.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(
        self,
        scope: str,
        step_key: str,
        *,
        writer_epoch: int | None,
        first_seq_id: int | None,
    ) -> LedgerEntry:
        """The entry of a step, made where there is none."""
        begun = time.time()
        reply = self._connection.run(
            script("ledger_begin"),
            [
                _entry(scope, step_key),
                *_fence(scope),
                keys.ledger_index(scope),
            ],
            [
                writer_epoch or 0,
                MAX_ENTRIES,
                step_key,
                keys.ledger_prefix(scope),
                begun,
                "state",
                "started",
                "started_at",
                repr(begun),
                *_field("writer_epoch", writer_epoch),
                *_field("first_seq_id", first_seq_id),
            ],
        )
        return _decode(reply, scope, step_key, writer_epoch)

    def record_plan(
        self,
        scope: str,
        step_key: str,
        plan_object: str,
        first_seq_id: int,
        *,
        writer_epoch: int | None = None,
    ) -> LedgerEntry:
        """Name the object with the payloads that the step submits from `first_seq_id` on."""
        return self._plan(scope, step_key, 0, plan_object, first_seq_id, writer_epoch)

    def record_attempt(
        self,
        scope: str,
        step_key: str,
        number: int,
        attempt: LedgerAttempt,
        *,
        writer_epoch: int | None = None,
    ) -> LedgerEntry:
        """Record where attempt `number` (the first one after the plan's own is 1) goes on."""
        first = attempt.first_operation, attempt.first_seq_id
        return self._plan(scope, step_key, number, *first, writer_epoch)

    def finish(
        self, scope: str, step_key: str, result: str, *, writer_epoch: int | None = None
    ) -> LedgerEntry:
        """Record the step's result. Its plan is nobody's any more, and is removed later."""
        now = time.time()
        entry = self.get(scope, step_key)
        plan = None if entry is None else entry.plan_object
        removed = "" if plan is None else Disposable(key=plan).model_dump_json()
        reply = self._connection.run(
            script("ledger_finish"),
            [_entry(scope, step_key), *_fence(scope), keys.DISPOSAL],
            [writer_epoch or 0, result, repr(now), removed],
        )
        return _decode(reply, scope, step_key, writer_epoch)

    def get(self, scope: str, step_key: str) -> LedgerEntry | None:
        """The entry of a step, None where it never began."""
        found = mapping(self._connection.call("HGETALL", _entry(scope, step_key)))
        return _parse(step_key, found) if found else None

    def plan_objects(self) -> Iterator[str]:
        """All objects that steps name as their plans, in no order; one may come twice."""
        cursor = 0
        while True:
            reply = self._connection.call(
                "SCAN", cursor, "MATCH", keys.LEDGER_PREFIX + "*", "COUNT", _SCANNED_AT_ONCE
            )
            following, names = items(reply)
            gets = [["HGET", name, "plan_object"] for name in texts(names)]
            for found in self._connection.read(*gets) if gets else []:
                if found is not None:
                    yield text(found)
            cursor = integer(following)
            if cursor == 0:
                return

    def _plan(
        self,
        scope: str,
        step_key: str,
        number: int,
        what: Arg,
        first_seq_id: int,
        writer_epoch: int | None,
    ) -> LedgerEntry:
        reply = self._connection.run(
            script("ledger_plan"),
            [_entry(scope, step_key), *_fence(scope)],
            [writer_epoch or 0, number, what, first_seq_id],
        )
        return _decode(reply, scope, step_key, writer_epoch)


def _entry(scope: str, step_key: str) -> str:
    return keys.ledger_prefix(scope) + step_key


def _fence(scope: str) -> list[str]:
    """The key whose epoch fences the scope; an empty one for a tenant's, which has no writer."""
    return ["" if scope.startswith(_TENANT) else keys.run(scope)]


def _field(name: str, value: int | None) -> list[Arg]:
    return [] if value is None else [name, value]


def _decode(reply: object, scope: str, step_key: str, writer_epoch: int | None) -> LedgerEntry:
    said, detail = items(reply)
    match text(said):
        case "entry":
            return _parse(step_key, mapping(detail))
        case "stale":
            raise StaleWriter(
                f"writer epoch {writer_epoch or 0} of training run {scope} is over, the newest "
                f"is {integer(detail)}: another client attached; attach again to go on"
            )
        case "no_run":
            raise NotFound(f"no training run {scope}")
        case _:
            raise NotFound(f"step {step_key!r} of {scope} was not begun")


def _parse(step_key: str, found: dict[str, bytes]) -> LedgerEntry:
    # Strings of digits are what pydantic's lax mode reads as numbers.
    fields: dict[str, object] = {name: value.decode() for name, value in found.items()}
    fields["attempts"] = json.loads(found.get("attempts", b"[]"))
    return LedgerEntry.model_validate({"step_key": step_key, **fields})
