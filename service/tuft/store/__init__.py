"""Journal and state on Valkey or Redis, and the embedded server."""

from tuft.store.connection import connect
from tuft.store.embedded import EmbeddedStore
from tuft.store.heartbeat import Heartbeat
from tuft.store.journal import Refused
from tuft.store.store import Store
from tuft.store.tenure import Tenure
from tuft.store.values import (
    Accepted,
    ClaimedSample,
    Effect,
    Lease,
    Outcome,
    RunStatus,
    WorkerState,
    WorkerStatus,
)

__all__ = [
    "Accepted",
    "ClaimedSample",
    "Effect",
    "EmbeddedStore",
    "Heartbeat",
    "Lease",
    "Outcome",
    "Refused",
    "RunStatus",
    "Store",
    "Tenure",
    "WorkerState",
    "WorkerStatus",
    "connect",
]
