"""What `tuft store check` finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.helpers.leases import take_lease
from tests.service.store.records import (
    MODEL,
    RUN,
    TENANT,
    accept,
    complete_up_to,
    create_run,
    operation,
    tombstone,
)
from tuft.contracts.records import SnapshotRecord
from tuft.objects import LocalObjects
from tuft.store import Store, connect
from tuft.store.connection import Connection
from tuft.store_tools.check import check_store

KEY, ENTRIES = f"tuft:run:{RUN}", f"tuft:journal:{RUN}"


@pytest.fixture
def client(valkey_url: str) -> redis.Redis:
    """A store in the middle of work: trimmed, with a gap, and with large payloads."""
    client = connect(valkey_url)
    store = Store(client)
    create_run(store)
    lease = take_lease(store, f"trainer:{MODEL}")
    for seq in range(1, 5):
        accept(store, operation(seq), b"payload")
    accept(store, operation(5, payload_object="payloads/5"))
    store.journal.refuse(tombstone(6), writer_epoch=0)
    accept(store, operation(8), b"payload")
    complete_up_to(store, lease, 3)
    store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=3, prefix="runs/r/s/3", step=1))
    store.journal.trim(lease, RUN, 1)
    return client


def _problems(client: redis.Redis, objects: LocalObjects | None = None) -> list[str]:
    return list(check_store(Connection(client), objects, None))


def test_nothing_is_wrong_with_what_the_service_wrote(client: redis.Redis, tmp_path: Path) -> None:
    assert _problems(client) == []
    objects = LocalObjects(tmp_path)
    objects.put("payloads/5", b"payload")
    objects.put("runs/r/s/3/manifest.json", b"{}")
    assert _problems(client, objects) == []


def test_objects_that_are_gone(client: redis.Redis, tmp_path: Path) -> None:
    payload, snapshot = _problems(client, LocalObjects(tmp_path))
    assert "object payloads/5, the payload of seq_id 5, is gone" in payload
    assert "its snapshot runs/r/s/3 is gone" in snapshot


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda c: c.hdel(ENTRIES, 4), "1 acknowledged operations are gone, the first is seq_id 4"),
        (lambda c: c.hset(KEY, "cursor", 99), "its counters are wrong"),
        (lambda c: c.hset(KEY, "pending", 1), "3 operations wait, and its counter says 1"),
        (lambda c: c.zrem(f"tuft:pending:{MODEL}", RUN), "the index of runs"),
        (lambda c: c.hdel(KEY, "snapshot"), "begins after seq_id 1, which no snapshot covers"),
        (lambda c: c.hdel(f"tuft:payloads:{RUN}", 4), "the payload of seq_id 4 is gone"),
        (lambda c: c.delete(f"tuft:future:{RUN}:4"), "nobody can fetch the result of"),
        (lambda c: c.hset(ENTRIES, 99, c.hget(ENTRIES, 4)), "seq_id 99 should not be"),
        (lambda c: c.incr(f"tuft:tenant-pending:{TENANT}"), f"tenant {TENANT}: the count"),
    ],
)
def test_damage_is_found(
    client: redis.Redis, damage: Callable[[redis.Redis], object], told: str
) -> None:
    damage(client)
    assert any(told in problem for problem in _problems(client))
