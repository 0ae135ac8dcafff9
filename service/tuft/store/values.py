"""Small values that the store's parts hand out and take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuft.contracts.operations import FutureRecord, Operation, SampleOperation, Tombstone
from tuft.contracts.records import SnapshotRecord

WorkerState = Literal["loading", "standby", "ready"]
"""standby: loaded, and waiting to take over from the worker that is ready."""

Effect = list[bytes | str | int]
"""One redis command that is run atomically with a completion. Only the commands that
`tuft.store.effects` lists; the parts of the store make them, nobody else."""


@dataclass(frozen=True)
class Accepted:
    """The answer to an accepted request; `duplicate`: it had been accepted before."""

    request_id: str
    duplicate: bool


@dataclass(frozen=True)
class Outcome:
    """A finished future; `body` is its inline body, None where `future.body_object` names it."""

    future: FutureRecord
    body: bytes | None


@dataclass(frozen=True)
class Lease:
    """The fence of a worker group: writes under an older epoch are refused."""

    group: str
    epoch: int


@dataclass(frozen=True)
class NextEntry:
    """What a run's journal has after its cursor.

    `payload`: the entry's inline payload, None where it has none. `gap`: the first missing seq_id
    that operations wait for, and since when (accepted_at).
    """

    cursor: int
    writer_epoch: int
    entry: Operation | Tombstone | None
    payload: bytes | None
    gap: tuple[int, float] | None


@dataclass(frozen=True)
class RunStatus:
    """Where a run's journal stands.

    `cursor`: last seq_id done (-1: not even creation). `next_seq_id`: the first that no
    operation and no tombstone has taken. `last_request_at`: seconds since the epoch.
    """

    cursor: int
    next_seq_id: int
    writer_epoch: int
    snapshot: SnapshotRecord | None
    last_request_at: float
    snapshot_before: SnapshotRecord | None = None


@dataclass(frozen=True)
class ClaimedSample:
    """A sample operation in the hands of a consumer; `deliveries` is 1 the first time."""

    entry_id: str
    op: SampleOperation
    deliveries: int


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker said of itself in the last seconds."""

    worker_id: str
    role: str
    base_model: str
    state: WorkerState
