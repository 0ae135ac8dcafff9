"""What ends is removed from the object store, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.service.api.harness import config_of
from tuft.api.catalog import Catalog
from tuft.api.housekeeping import Housekeeping
from tuft.checkpoints import Checkpoints
from tuft.config import ObjectStoreConfig
from tuft.contracts.records import Disposable, SessionRecord
from tuft.objects import ObjectStore, open_object_store
from tuft.store import Store, connect


@pytest.fixture
def store(valkey_url: str) -> Store:
    return Store(connect(valkey_url))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_object_store(ObjectStoreConfig(path=tmp_path))


@pytest.fixture
def housekeeping(store: Store, objects: ObjectStore, tmp_path: Path) -> Housekeeping:
    catalog = Catalog(store, Checkpoints(objects))
    return Housekeeping(config_of(tmp_path, policy_ttl_s=100), store, objects, catalog)


def test_results_go_when_they_are_due(
    store: Store, objects: ObjectStore, housekeeping: Housekeeping
) -> None:
    for name, due in (("results/old", 10.0), ("results/new", 30.0)):
        store.disposal.schedule(Disposable(key=name), due)
        objects.put(name, b"x")
    assert housekeeping.sweep(20.0) == 1
    assert not objects.exists("results/old")
    assert objects.exists("results/new")
    assert housekeeping.sweep(20.0) == 0


def test_a_policy_lives_as_long_as_its_session_is_heard_of(
    store: Store, objects: ObjectStore, housekeeping: Housekeeping
) -> None:
    now = time.time()
    store.sessions.create(SessionRecord(session_id="s", tenant="t", created_at=now))
    policy = Disposable(key="runs/r/policies/p", folder=True, session_id="s")
    store.disposal.schedule(policy, now)
    objects.put("runs/r/policies/p/adapter", b"x")
    objects.put("runs/r/policies/other/adapter", b"x")
    store.sessions.heartbeat("s")
    assert housekeeping.sweep(now + 50) == 0
    assert objects.exists("runs/r/policies/p/adapter")
    assert housekeeping.sweep(time.time() + 101) == 1
    assert not objects.exists("runs/r/policies/p/adapter")
    assert objects.exists("runs/r/policies/other/adapter")


def test_what_was_never_written_is_no_error(store: Store, housekeeping: Housekeeping) -> None:
    store.disposal.schedule(Disposable(key="results/never"), 1.0)
    gone = Disposable(key="runs/r/policies/p", folder=True, session_id="forgotten")
    store.disposal.schedule(gone, 1.0)
    assert housekeeping.sweep(2.0) == 2
    assert store.disposal.due(2.0, 10) == []
