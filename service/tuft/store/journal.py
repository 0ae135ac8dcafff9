"""The journal: every accepted operation of a run, in the order of its seq_ids.

A seq_id is taken once, by an operation or by a tombstone. `cursor` moves over them one by
one as the trainer completes or passes them, and entries stay until a snapshot covers them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuft.contracts.operations import (
    ForwardBackward,
    FutureRecord,
    Operation,
    Tombstone,
    request_id_of,
)
from tuft.contracts.records import SnapshotRecord
from tuft.errors import (
    Conflict,
    InvalidRequest,
    LeaseLost,
    NotFound,
    QueueFull,
    StaleWriter,
    TuftError,
)
from tuft.store import keys
from tuft.store.connection import (
    Arg,
    Connection,
    blob,
    integer,
    items,
    mapping,
    number,
    script,
    text,
)
from tuft.store.effects import flatten
from tuft.store.events import STREAM_LENGTH
from tuft.store.runs import not_live
from tuft.store.traffic import finished_field
from tuft.store.values import Accepted, Effect, Lease, NextEntry, Outcome

WINDOW = 65_536
"""How far beyond the cursor a seq_id may be."""

TOMBSTONE_TTL_S = 3600
"""How long a trimmed tombstone still answers a repeated request."""

_READ_AT_ONCE = 500


class Refused(TuftError):
    """The seq_id was refused for good before; `tombstone` holds the answer given then."""

    code = "refused"

    def __init__(self, tombstone: Tombstone) -> None:
        super().__init__(tombstone.reason)
        self.tombstone = tombstone


class Journal:
    """Operations and tombstones of all runs; `(run_id, seq_id)` is an entry's identity."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def accept(
        self,
        op: Operation,
        payload: bytes | None,
        future: FutureRecord,
        *,
        writer_epoch: int,
        proves_earlier: bool,
        max_pending: int,
        max_pending_tokens: int = 2**53,
        max_tenant_pending: int = 2**53,
        max_behind_snapshot: int = 2**53,
    ) -> Accepted:
        """Append an operation, with its payload and its pending future, and wake the trainer.

        `proves_earlier`: the client sends nothing before its earlier requests were answered,
        so that what is missing before `op` never comes; it gets tombstones that poison.
        An operation that closes the first gap is taken even where `max_pending` are pending,
        since those behind the gap can't be done without it. The same holds for the other limits:
        the operations and the tokens that the tenant has pending in all its runs (one operation
        of any size is taken), and the entries that a trainer would have to do again.

        Raises:
            NotFound: no such run.
            InvalidRequest: the run can't be trained any more, or the seq_id is too far ahead.
            StaleWriter: not the run's newest writer. Nothing is written.
            Refused: the seq_id was refused before.
            Conflict: the seq_id was taken by another request.
            QueueFull: `max_pending` operations of the run wait, or `max_tenant_pending` or
                `max_pending_tokens` of the tenant, or `max_behind_snapshot` of the run are behind
                its last snapshot. Nothing is written.
        """
        if future.request_id != op.request_id:
            raise ValueError(f"future {future.request_id} is not that of {op.request_id}")
        if op.seq_id < 1:
            raise InvalidRequest(f"seq_id is {op.seq_id}; the first request of a run has 1")
        entry: list[Arg] = [op.run_id, op.seq_id, op.digest, "O" + op.model_dump_json()]
        entry += [op.accepted_at, int(payload is not None), payload or b""]
        entry += [future.model_dump_json(), writer_epoch, int(proves_earlier)]
        limits: list[Arg] = [max_pending, WINDOW, STREAM_LENGTH, _tokens(op), max_pending_tokens]
        limits += [max_tenant_pending, max_behind_snapshot]
        acceptance = _acceptance_keys(op, future.tenant)
        reply = items(self._connection.run(script("journal_accept"), acceptance, [*entry, *limits]))
        said = text(reply[0])
        if said in ("accepted", "duplicate"):
            return Accepted(op.request_id, duplicate=said == "duplicate")
        raise _queue_full(said, reply, op, future.tenant) or _refusal(said, reply, op, writer_epoch)

    def refuse(self, tombstone: Tombstone, *, writer_epoch: int) -> None:
        """Burn a seq_id, since its request was refused for good or never arrives.

        Nothing happens where the seq_id is taken or done already, where it is too far ahead to
        be waited for, or where the run can't be trained any more.

        Raises:
            NotFound: no such run.
            StaleWriter: not the run's newest writer.
        """
        reply = items(
            self._connection.run(
                script("journal_refuse"),
                _keys(tombstone.run_id),
                [
                    tombstone.run_id,
                    tombstone.seq_id,
                    "T" + tombstone.model_dump_json(),
                    writer_epoch,
                    WINDOW,
                    STREAM_LENGTH,
                ],
            )
        )
        said = text(reply[0])
        if said not in ("refused", "taken"):
            raise _refusal(said, reply, tombstone, writer_epoch)

    def entries(self, run_id: str, after: int, limit: int) -> list[Operation | Tombstone]:
        """Up to `limit` entries from seq `after + 1` on, up to the first gap.

        Raises:
            NotFound: no such run, or the journal was trimmed beyond `after`.
        """
        if limit <= 0:
            return []
        found = items(
            self._connection.run(
                script("journal_entries"),
                [keys.run(run_id), keys.entries(run_id)],
                [after + 1, after + limit],
            )
        )
        if not found:
            raise NotFound(f"no training run {run_id}")
        trimmed = integer(found[0])
        if trimmed > after:
            raise NotFound(
                f"the journal of {run_id} begins after seq_id {trimmed}, "
                f"entries after {after} were asked for"
            )
        return [decode_entry(blob(entry)) for entry in found[1:]]

    def next(self, run_id: str) -> NextEntry:
        """The entry after the run's cursor, and what the trainer needs for it, in one go.

        Raises: NotFound.
        """
        found = items(self._connection.run(script("journal_next"), _keys(run_id)))
        if not found:
            raise NotFound(f"no training run {run_id}")
        cursor, epoch, entry, payload, missing, since = found
        return NextEntry(
            cursor=integer(cursor),
            writer_epoch=integer(epoch),
            entry=None if entry is None else decode_entry(blob(entry)),
            payload=None if payload is None else blob(payload),
            gap=None if missing is None else (integer(missing), number(since)),
        )

    def payload(self, op: Operation) -> bytes | None:
        """The inline payload, None where there is none (or where it is an object)."""
        found = self._connection.call("HGET", keys.payloads(op.run_id), op.seq_id)
        return None if found is None else blob(found)

    def failure(self, run_id: str, seq_id: int) -> str | None:
        """Why a completed operation failed; None where it did not."""
        found = self._connection.call("HGET", keys.failures(run_id), seq_id)
        return None if found is None else text(found)

    def note_death(self, run_id: str, seq_id: int, life: str) -> int:
        """The trainer died while it worked on this operation; how often it did by now.

        `life` is what only that trainer was called, so that telling it again changes nothing. It
        is forgotten when the operation completes.
        """
        code = script("journal_death")
        return integer(self._connection.run(code, [keys.deaths(run_id)], [seq_id, life]))

    def deaths(self, run_id: str) -> dict[int, int]:
        """How often the trainer died at operations of this run, by seq_id."""
        found = mapping(self._connection.call("HGETALL", keys.deaths(run_id)))
        return {int(seq): int(count.partition(b":")[0]) for seq, count in found.items()}

    def forget_deaths(self, run_id: str, seq_ids: Sequence[int]) -> None:
        """These operations did no harm after all."""
        if seq_ids:
            self._connection.call("HDEL", keys.deaths(run_id), *seq_ids)

    def complete(
        self,
        lease: Lease,
        op: Operation,
        outcome: Outcome,
        effects: Sequence[Effect] = (),
        *,
        result_ttl_s: float,
        max_kept: int = 100_000,
    ) -> None:
        """Finish the operation after the cursor: its future, its effects, the cursor, at once.

        Of all results, those of sampling too, the last `max_kept` are kept. Repeating it under
        the same lease changes nothing.

        Raises:
            LeaseLost: another worker leads, or the cursor is not where it should be.
            NotFound: no such run.
        """
        future = outcome.future
        if future.request_id != op.request_id or future.status == "pending":
            raise ValueError(f"not an outcome of {op.request_id}: {future!r}")
        failure = (future.error or "failed") if future.status == "failed" else ""
        reply = self._connection.run(
            script("journal_complete"),
            [
                keys.lease(lease.group),
                keys.run(op.run_id),
                keys.entries(op.run_id),
                keys.failures(op.run_id),
                keys.future(op.request_id),
                keys.RESULTS,
                keys.tenant_pending_tokens(future.tenant),
                keys.deaths(op.run_id),
                keys.tenant_pending(future.tenant),
                keys.KEPT_RESULTS,
                keys.FINISHED,
            ],
            [
                lease.epoch,
                op.seq_id,
                op.digest,
                op.request_id,
                future.model_dump_json(),
                int(outcome.body is not None),
                outcome.body or b"",
                max(1, round(result_ttl_s * 1000)),
                failure,
                STREAM_LENGTH,
                _tokens(op),
                op.run_id,
                max_kept,
                keys.FUTURE_PREFIX,
                finished_field(op.body.kind, future),
                *flatten(effects),
            ],
        )
        _check_fenced(text(reply), lease, op.run_id, op.seq_id)

    def pass_tombstone(self, lease: Lease, run_id: str, seq_id: int) -> None:
        """Move the cursor over the tombstone after it. Raises as `complete`."""
        reply = self._connection.run(
            script("journal_pass"),
            [keys.lease(lease.group), keys.run(run_id), keys.entries(run_id)],
            [lease.epoch, seq_id, run_id],
        )
        _check_fenced(text(reply), lease, run_id, seq_id)

    def set_snapshot(self, lease: Lease, run_id: str, snapshot: SnapshotRecord) -> None:
        """Record a recovery point; one older than the recorded changes nothing.

        Raises:
            LeaseLost: another worker leads.
            NotFound: no such run.
            ValueError: the snapshot is ahead of the cursor.
        """
        reply = self._connection.run(
            script("journal_snapshot"),
            [keys.lease(lease.group), keys.run(run_id)],
            [lease.epoch, snapshot.seq_id, snapshot.model_dump_json()],
        )
        _check_fenced(text(reply), lease, run_id, snapshot.seq_id)

    def trim(self, lease: Lease, run_id: str, up_to: int) -> list[str]:
        """Forget entries up to seq `up_to`; returns the payload objects that nothing names now.

        Raises:
            LeaseLost: another worker leads.
            NotFound: no such run.
            ValueError: no snapshot covers `up_to`.
        """
        unused = self._payload_objects(run_id, up_to)
        reply = self._connection.run(
            script("journal_trim"),
            [
                keys.lease(lease.group),
                keys.run(run_id),
                keys.entries(run_id),
                keys.payloads(run_id),
                keys.failures(run_id),
                keys.tombstone_prefix(run_id),
            ],
            [lease.epoch, up_to, TOMBSTONE_TTL_S],
        )
        _check_fenced(text(reply), lease, run_id, up_to)
        return unused

    def _payload_objects(self, run_id: str, up_to: int) -> list[str]:
        # Read before the trim, so that a repeated trim (its reply was lost) still tells them.
        trimmed = self._connection.call("HGET", keys.run(run_id), "trimmed")
        after = -1 if trimmed is None else integer(trimmed)
        unused: list[str] = []
        for start in range(after + 1, up_to + 1, _READ_AT_ONCE):
            seqs = range(start, min(start + _READ_AT_ONCE, up_to + 1))
            for entry in items(self._connection.call("HMGET", keys.entries(run_id), *seqs)):
                op = None if entry is None else decode_entry(blob(entry))
                if isinstance(op, Operation) and op.payload_object is not None:
                    unused.append(op.payload_object)
        return unused


def _keys(run_id: str) -> list[str]:
    parts = (keys.run, keys.entries, keys.payloads, keys.waiting)
    return [part(run_id) for part in parts]


def _tokens(op: Operation) -> int:
    return op.body.tokens if isinstance(op.body, ForwardBackward) else 0


def _tombstone_key(op: Operation) -> str:
    return f"{keys.tombstone_prefix(op.run_id)}{op.seq_id}"


def decode_entry(entry: bytes) -> Operation | Tombstone:
    """From what stands under a seq_id; see `keys.entries`."""
    kind: type[Operation] | type[Tombstone] = Operation if entry[:1] == b"O" else Tombstone
    return kind.model_validate_json(entry[1:])


def _acceptance_keys(op: Operation, tenant: str) -> list[str]:
    counters = [keys.tenant_pending_tokens(tenant), keys.tenant_pending(tenant)]
    return [*_keys(op.run_id), keys.future(op.request_id), _tombstone_key(op), *counters]


def _queue_full(said: str, reply: list[object], op: Operation, tenant: str) -> QueueFull | None:
    if said == "full":
        return QueueFull(
            f"training run {op.run_id} has {integer(reply[1])} operations waiting, the limit "
            "is limits.max_pending_operations; try again later"
        )
    if said == "full_of_tokens":
        return QueueFull(
            f"{tenant} has {integer(reply[1])} tokens waiting to be trained, the limit "
            "is limits.max_pending_tokens; try again later"
        )
    if said == "tenant_full":
        return QueueFull(
            f"{tenant} has {integer(reply[1])} operations waiting in its training runs, the limit "
            "is limits.max_tenant_operations; try again later"
        )
    if said == "journal_full":
        return QueueFull(
            f"training run {op.run_id} has {integer(reply[1])} operations behind its last snapshot, "
            "the limit is limits.max_journal_operations; try again later. The trainer's log says "
            "why there is no newer snapshot"
        )
    return None


def _refusal(
    said: str, reply: list[object], entry: Operation | Tombstone, writer_epoch: int
) -> TuftError:
    run_id, seq_id = entry.run_id, entry.seq_id
    if said == "missing":
        return NotFound(f"no training run {run_id}")
    if said == "not_live":
        return not_live(run_id)
    if said == "stale":
        return StaleWriter(
            f"writer epoch {writer_epoch} of training run {run_id} is over, the newest is "
            f"{integer(reply[1])}: another client attached; attach again to go on"
        )
    if said == "refused":
        return Refused(Tombstone.model_validate_json(blob(reply[1])))
    if said == "too_far":
        return InvalidRequest(
            f"seq_id {seq_id} of training run {run_id} is out of range: the last one done is "
            f"{integer(reply[1])}, and at most {WINDOW} may lie between"
        )
    return Conflict(
        f"seq_id {seq_id} of training run {run_id} was used by another request before "
        f"({request_id_of(run_id, seq_id)}); use the next one"
    )


def _check_fenced(said: str, lease: Lease, run_id: str, seq_id: int) -> None:
    match said:
        case "ok":
            return
        case "missing":
            raise NotFound(f"no training run {run_id}")
        case "lease":
            raise LeaseLost(f"the lease of {lease.group} with epoch {lease.epoch} is over")
        case "cursor":
            raise LeaseLost(
                f"seq_id {seq_id} of {run_id} does not follow the cursor: another worker was here"
            )
        case _:
            raise ValueError(f"{run_id}, seq_id {seq_id}: {said}")
