"""Leases for tests that are about something else."""

from __future__ import annotations

import itertools

from tuft.store import Lease, Store

_holders = itertools.count()


def take_lease(store: Store, group: str) -> Lease:
    """A new lease of a group, whoever has it; it is kept until somebody takes the next one."""
    while True:
        lease = store.workers.acquire(group, f"holder-{next(_holders)}", ttl_s=0.001)
        if lease is not None:
            return lease
