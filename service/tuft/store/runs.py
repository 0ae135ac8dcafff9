"""Training runs: their records, indexes and standing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from tuft.contracts.operations import FutureRecord, Operation, request_id_of
from tuft.contracts.records import RunRecord, SnapshotRecord
from tuft.errors import Conflict, InvalidRequest, NotFound
from tuft.store import keys
from tuft.store.connection import Connection, blob, integer, items, number, script, text, texts
from tuft.store.events import STREAM_LENGTH
from tuft.store.values import Accepted, RunStatus

_STATUS_FIELDS = ("cursor", "top", "epoch", "snapshot", "last_request_at", "snapshot_before")


class Runs:
    """Training runs. `live` ones can be trained; of others only checkpoints are left."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self, run: RunRecord, op: Operation, future: FutureRecord, *, max_runs: int
    ) -> Accepted:
        """Create a run with its operation 0; repeating it changes nothing.

        Raises:
            Conflict: the run exists and was created by another request.
            InvalidRequest: the tenant has `max_runs` live runs.
        """
        if op.run_id != run.run_id or op.seq_id != 0 or future.request_id != op.request_id:
            raise ValueError("a run is created with its own operation 0 and that one's future")
        reply = self._connection.run(
            script("run_create"),
            [
                keys.run(run.run_id),
                keys.entries(run.run_id),
                keys.future(future.request_id),
                keys.tenant_runs(run.tenant),
                keys.tenant_live_runs(run.tenant),
                keys.session_runs(run.session_id),
                keys.model_live_runs(run.base_model),
                keys.work(run.base_model),
                keys.pending_runs(run.base_model),
                keys.tenant_pending(run.tenant),
            ],
            [
                run.run_id,
                run.model_dump_json(),
                run.created_at,
                "O" + op.model_dump_json(),
                op.digest,
                op.accepted_at,
                future.model_dump_json(),
                max_runs,
                STREAM_LENGTH,
            ],
        )
        match text(reply):
            case "created" | "duplicate" as said:
                return Accepted(op.request_id, duplicate=said == "duplicate")
            case "too_many":
                raise InvalidRequest(
                    f"{max_runs} training runs exist already, which is the limit of "
                    "trainer.max_training_runs"
                )
            case _:
                raise Conflict(
                    f"training run {run.run_id} exists and was created by another request; "
                    "use a new model_seq_id"
                )

    def get(self, run_id: str) -> RunRecord:
        """Raises: NotFound."""
        found = self._connection.call("HGET", keys.run(run_id), "record")
        if found is None:
            raise _no_run(run_id)
        return RunRecord.model_validate_json(blob(found))

    def tenants(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The owners of runs; those that do not exist are left out."""
        gets = [["HGET", keys.run(run_id), "record"] for run_id in run_ids]
        found = zip(run_ids, self._connection.read(*gets), strict=True)
        return {
            run_id: RunRecord.model_validate_json(blob(record)).tenant
            for run_id, record in found
            if record is not None
        }

    def status(self, run_id: str) -> RunStatus:
        """Raises: NotFound."""
        found = items(self._connection.call("HMGET", keys.run(run_id), *_STATUS_FIELDS))
        if found[0] is None:
            raise _no_run(run_id)
        return _status(found)

    def standing(self, run_id: str, seq_id: int) -> tuple[RunRecord, RunStatus, bool]:
        """What `get` and `status` say, in one go, and whether `seq_id` was taken before.

        Raises: NotFound.
        """
        found, known = self._connection.read(
            ["HMGET", keys.run(run_id), "record", *_STATUS_FIELDS],
            ["EXISTS", keys.future(request_id_of(run_id, seq_id))],
        )
        record, *status = items(found)
        if record is None:
            raise _no_run(run_id)
        standing = _status(status)
        # Futures expire; up to the cursor everything was taken.
        taken = bool(integer(known)) or seq_id <= standing.cursor
        return RunRecord.model_validate_json(blob(record)), standing, taken

    def pending_run_ids(self, base_model: str) -> list[str]:
        """Runs of a base model with something behind their cursor, that with the newest first."""
        index = keys.pending_runs(base_model)
        return texts(self._connection.call("ZRANGE", index, 0, -1, "REV"))

    def attach(self, run_id: str, writer: str = "") -> RunStatus:
        """Take a new writer epoch; what earlier writers send from now on is refused.

        A `writer` that names itself and attaches again gets the epoch that it got, so that a
        repeated request can't take the run from whoever attached since. A gap that an earlier
        writer left stays open: the operations that a retried step submits again may fill it.

        Raises:
            NotFound: no such run.
            InvalidRequest: only its checkpoints are left.
        """
        reply = items(
            self._connection.run(
                script("run_attach"), [keys.run(run_id)], [time.time(), writer, *_STATUS_FIELDS]
            )
        )
        if not reply:
            raise _no_run(run_id)
        if len(reply) == 1:
            raise not_live(run_id)
        epoch, status = reply
        return replace(_status(items(status)), writer_epoch=integer(epoch))

    def restore(self, run: RunRecord) -> None:
        """Index a run that is known from its checkpoints only; a known run is left as it is."""
        dead = run.model_copy(update={"live": False})
        self._connection.run(
            script("run_restore"),
            [keys.run(run.run_id), keys.tenant_runs(run.tenant)],
            [run.run_id, dead.model_dump_json(), run.created_at],
        )

    # Last, since it hides the type of its name from what follows in the class.
    def list(self, tenant: str, limit: int, offset: int) -> tuple[list[RunRecord], int]:
        """A page of the tenant's runs, newest first, and how many there are in all."""
        index = keys.tenant_runs(tenant)
        if limit <= 0:
            return [], integer(self._connection.call("ZCARD", index))
        found, total = self._connection.read(
            ["ZRANGE", index, offset, offset + limit - 1, "REV"], ["ZCARD", index]
        )
        gets = [["HGET", keys.run(run_id), "record"] for run_id in texts(found)]
        records = self._connection.read(*gets) if gets else []
        return [RunRecord.model_validate_json(blob(record)) for record in records], integer(total)


def not_live(run_id: str) -> InvalidRequest:
    """Of a run that the service forgot when it restarted without persistence."""
    return InvalidRequest(
        f"training run {run_id} ended when the service restarted; its checkpoints are left: "
        "create a new training client from one of them"
    )


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"no training run {run_id}")


def _status(found: list[object]) -> RunStatus:
    cursor, top, epoch, snapshot, last_request_at, before = found
    return RunStatus(
        cursor=integer(cursor),
        next_seq_id=integer(top) + 1,
        writer_epoch=integer(epoch),
        snapshot=_snapshot(snapshot),
        last_request_at=number(last_request_at),
        snapshot_before=_snapshot(before),
    )


def _snapshot(found: object) -> SnapshotRecord | None:
    return None if found is None else SnapshotRecord.model_validate_json(blob(found))
