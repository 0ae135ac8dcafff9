"""Whether what is in a store fits together: journals, their counters, and the objects they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tuft.contracts.operations import ForwardBackward, Operation, Tombstone
from tuft.contracts.records import RunRecord, SnapshotRecord
from tuft.objects import ObjectStore
from tuft.store import keys
from tuft.store.connection import Connection, integer, items, mapping, texts
from tuft.store.journal import decode_entry
from tuft.store_tools.transfer import key_names

_AT_ONCE = 500


def check_store(
    connection: Connection, objects: ObjectStore | None, local: ObjectStore | None
) -> Iterator[str]:
    """What is wrong, one line each; nothing where all is well. Nobody may write meanwhile.

    Args:
        objects: what the journals name must be there; None: that is not looked at.
        local: the same for the snapshots of this machine.
    """
    prefix = keys.run("")
    pending: Counter[str] = Counter()
    for name in key_names(connection):
        if name.startswith(prefix):
            run = _Run(connection, name.removeprefix(prefix))
            pending[run.record.tenant] += run.pending
            for problem in [*run.problems(), *run.missing(objects, local)]:
                yield f"training run {run.run_id}: {problem}"
    for name in key_names(connection):
        counted = name.removeprefix(keys.tenant_pending(""))
        if counted != name and integer(connection.call("GET", name)) != pending[counted]:
            yield f"tenant {counted}: the count of operations that wait is wrong"


class _Run:
    """A run as it stands in the store."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self._connection = connection
        self.run_id = run_id
        found = mapping(connection.call("HGETALL", keys.run(run_id)))
        self.record = RunRecord.model_validate_json(found["record"])
        names = ("cursor", "filled", "top", "trimmed", "pending")
        self.cursor, self.filled, self.top, self.trimmed, self.pending = (
            int(found[name]) for name in names
        )
        self.live = found["live"] == b"1"
        self.snapshots = [
            SnapshotRecord.model_validate_json(found[name])
            for name in ("snapshot", "snapshot_before")
            if name in found
        ]
        journal = mapping(connection.call("HGETALL", keys.entries(run_id)))
        self.entries: dict[int, Operation | Tombstone] = {
            int(seq): decode_entry(entry) for seq, entry in journal.items()
        }

    def problems(self) -> Iterator[str]:
        if not self.live:
            return
        if not self.trimmed <= self.cursor <= self.filled <= self.top:
            yield (
                f"its counters are wrong (trimmed {self.trimmed}, done {self.cursor}, without a "
                f"gap up to {self.filled}, newest {self.top})"
            )
        lost = [seq for seq in range(self.trimmed + 1, self.filled + 1) if seq not in self.entries]
        if lost:
            yield f"{len(lost)} acknowledged operations are gone, the first is seq_id {lost[0]}"
        strange = [seq for seq in self.entries if not self.trimmed < seq <= self.top]
        if strange:
            yield f"seq_id {strange[0]} should not be in its journal"
        waiting = [op for seq, op in self.entries.items() if seq > self.cursor and _is_op(op)]
        if len(waiting) != self.pending:
            yield f"{len(waiting)} operations wait, and its counter says {self.pending}"
        indexed = self._connection.call(
            "ZSCORE", keys.pending_runs(self.record.base_model), self.run_id
        )
        if (indexed is not None) != (self.cursor < self.top):
            yield "the index of runs with something pending is wrong"
        if self.trimmed >= 0 and self._covered() < self.trimmed:
            yield f"its journal begins after seq_id {self.trimmed}, which no snapshot covers"
        yield from self._without_a_future()

    def missing(self, objects: ObjectStore | None, local: ObjectStore | None) -> Iterator[str]:
        """What its journal names and is not there."""
        inline = {int(seq) for seq in self._fields(keys.payloads(self.run_id))}
        for seq, op in sorted(self.entries.items()):
            if not isinstance(op, Operation) or not isinstance(op.body, ForwardBackward):
                continue
            if op.payload_object is None:
                if seq not in inline:
                    yield f"the payload of seq_id {seq} is gone"
            elif objects is not None and not objects.exists(op.payload_object):
                yield f"object {op.payload_object}, the payload of seq_id {seq}, is gone"
        for snapshot in self.snapshots:
            place = local if snapshot.local else objects
            if place is not None and not place.exists(f"{snapshot.prefix}/manifest.json"):
                yield f"its snapshot {snapshot.prefix} is gone"

    def _covered(self) -> int:
        return max((snapshot.seq_id for snapshot in self.snapshots), default=-1)

    def _without_a_future(self) -> Iterator[str]:
        waiting = [
            op
            for seq, op in self.entries.items()
            if seq > self.cursor and isinstance(op, Operation)
        ]
        for start in range(0, len(waiting), _AT_ONCE):
            part = waiting[start : start + _AT_ONCE]
            gets = [["EXISTS", keys.future(op.request_id)] for op in part]
            for op, there in zip(part, self._connection.read(*gets), strict=True):
                if not integer(there):
                    yield f"nobody can fetch the result of {op.request_id}: its future is gone"

    def _fields(self, name: str) -> list[str]:
        return texts(items(self._connection.call("HKEYS", name)))


def _is_op(entry: Operation | Tombstone) -> bool:
    return isinstance(entry, Operation)
