"""What nothing refers to is removed when it is old; everything else stays, whoever owns it."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.leases import take_lease
from tests.helpers.objects import Observed
from tests.service.api.harness import config_of
from tests.service.checkpoints.samples import NEW, OLD
from tests.service.store import records
from tests.service.store.records import MODEL, RUN
from tests.waiting import wait_until
from tuft.api.catalog import Catalog
from tuft.api.garbage import Garbage
from tuft.api.ownership import MARKER
from tuft.checkpoints import Checkpoints
from tuft.contracts.records import Disposable, SnapshotRecord
from tuft.errors import Unavailable
from tuft.objects import LocalObjects, ObjectStore
from tuft.persistence import PersistenceConfig
from tuft.store import Store, connect

TTL_S = 1000.0


@pytest.fixture
def store(valkey_url: str) -> Store:
    return Store(connect(valkey_url))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return LocalObjects(tmp_path / "objects")


def garbage_of(
    store: Store, objects: ObjectStore, folder: Path, *, lasting: bool = True
) -> Garbage:
    """One that needs no second look."""
    mode = PersistenceConfig.from_file_redis(folder) if lasting else PersistenceConfig.disabled()
    config = config_of(folder, orphan_ttl_s=TTL_S).model_copy(update={"persistence": mode})
    garbage = Garbage(config, store, objects, Catalog(store, Checkpoints(objects)))
    garbage.settle_s = 0.0
    return garbage


@pytest.fixture
def garbage(store: Store, objects: ObjectStore, tmp_path: Path) -> Garbage:
    return garbage_of(store, objects, tmp_path)


def keys(objects: ObjectStore) -> set[str]:
    return {info.key for info in objects.list("")} - {MARKER}


def later() -> float:
    """When all that is there now is old."""
    return time.time() + TTL_S + 5


def fill(store: Store, objects: ObjectStore) -> set[str]:
    """Everything that a service keeps; the keys of what has an owner."""
    lease = take_lease(store, f"trainer:{MODEL}")
    records.create_run(store)
    records.complete_up_to(store, lease, 0)
    for seq_id in (1, 2, 3):
        named = f"payloads/{RUN}/{seq_id}-abc"
        objects.put(named, b"payload")
        records.accept(store, records.operation(seq_id, payload_object=named))
    records.complete_up_to(store, lease, 2)
    for seq_id in (0, 1, 2):
        prefix = f"runs/{RUN}/snapshots/{seq_id}"
        record = records.checkpoint("s", 1.0)
        Checkpoints(objects).write(record.manifest, OLD, prefix=prefix)
        snapshot = SnapshotRecord(seq_id=seq_id, prefix=prefix, step=0)
        store.journal.set_snapshot(lease, RUN, snapshot)
    store.journal.trim(lease, RUN, 1)
    for key in (f"results/{RUN}:1", "results/s:sample:0:1"):
        store.disposal.schedule(Disposable(key=key), 9e9)
        objects.put(key, b"result")
    policy = f"runs/{RUN}/policies/{RUN}:sample:4"
    store.disposal.schedule(Disposable(key=policy, folder=True, session_id="session-1"), 9e9)
    Checkpoints(objects).write(records.checkpoint("p", 1.0).manifest, NEW, prefix=policy)
    store.ledger.begin("tenant:t", "step", writer_epoch=0, first_seq_id=None)
    objects.put("ledger/a/b", b"plan")
    store.ledger.record_plan("tenant:t", "step", "ledger/a/b", 1)
    checkpoints = Checkpoints(objects)
    manifest = records.checkpoint("a", 1.0).manifest
    checkpoints.write(manifest, OLD)
    store.checkpoints.put(checkpoints.write(manifest, NEW, overwrite=True))
    store.checkpoints.put(checkpoints.write(records.checkpoint("plain", 1.0).manifest, NEW))
    objects.put("mine/notes.txt", b"of the operator")
    objects.put("runs/README", b"of the operator")
    objects.put("payloads/notes", b"of the operator")
    objects.put(f"runs/{RUN}/snapshots/kept/x", b"of the operator")
    owned = keys(objects)
    return {
        key
        for key in owned
        # Trimmed, and behind the last two.
        if key != f"payloads/{RUN}/1-abc" and f"{RUN}/snapshots/0/" not in key
    }


def litter(objects: ObjectStore) -> None:
    """What dead processes and forgotten runs leave."""
    for key in (
        f"payloads/{RUN}/2-other",
        f"payloads/{RUN}/9-abc",
        "payloads/gone:train:0/1-abc",
        "results/gone:train:0:1",
        "ledger/a/c",
        f"runs/{RUN}/policies/{RUN}:sample:9/adapter_model.safetensors",
        "runs/gone:train:0/policies/p/manifest.json",
        "runs/gone:train:0/snapshots/5/manifest.json",
        "runs/gone:train:0/weights/unfinished/adapter_model.safetensors",
        f"runs/{RUN}/weights/a/adapter_model.safetensors",
        f"runs/{RUN}/weights/a/write-0123/adapter_model.safetensors",
        f"runs/{RUN}/weights/plain/write-0123/adapter_model.safetensors",
    ):
        objects.put(key, b"litter")


def test_what_has_no_owner_is_removed_and_nothing_else(
    store: Store, object_store: ObjectStore, tmp_path: Path
) -> None:
    garbage = garbage_of(store, object_store, tmp_path)
    # The store has been here before, as it has in a service that has run for a while.
    assert garbage.mark(time.time())
    owned = fill(store, object_store)
    litter(object_store)
    before = keys(object_store)
    assert garbage.collect(time.time()) == 0
    assert keys(object_store) == before
    assert garbage.collect(later()) == len(before - owned) >= 15
    assert keys(object_store) == owned
    assert garbage.collect(later()) == 0


def test_one_look_is_not_enough(store: Store, objects: ObjectStore, garbage: Garbage) -> None:
    """A clock that is wrong by a day finds everything old, also what is written just now."""
    garbage.settle_s = 0.5
    objects.put("results/gone:1", b"x")
    for _ in range(3):
        assert garbage.collect(later()) == 0
    wait_until(lambda: garbage.collect(later()) == 1, 10)
    objects.put("results/gone:2", b"x")
    assert garbage.collect(later()) == 0
    # It gets an owner between the looks.
    store.disposal.schedule(Disposable(key="results/gone:2"), 9e9)
    assert garbage.collect(later()) == 0
    assert objects.exists("results/gone:2")


def test_a_checkpoint_that_the_index_lacks_is_put_into_it(
    store: Store, objects: ObjectStore, garbage: Garbage
) -> None:
    """A store that was restored from an older backup, say."""
    record = Checkpoints(objects).write(records.checkpoint("a", 1.0).manifest, OLD)
    before = keys(objects)
    assert garbage.collect(later()) == 0
    assert store.checkpoints.list_run(RUN) == [record]
    assert keys(objects) == before


def test_a_damaged_checkpoint_is_left_alone(objects: ObjectStore, garbage: Garbage) -> None:
    Checkpoints(objects).write(records.checkpoint("a", 1.0).manifest, OLD)
    prefix = f"runs/{RUN}/weights/a"
    objects.put(f"{prefix}/manifest.json", b"{")
    objects.put(f"{prefix}/write-1/adapter_model.safetensors", b"x")
    before = keys(objects)
    assert garbage.collect(later()) == 0
    assert keys(objects) == before


@pytest.mark.slow
def test_one_process_collects_at_a_time(store: Store, objects: ObjectStore, tmp_path: Path) -> None:
    first, second = (garbage_of(store, objects, tmp_path) for _ in range(2))
    for one in (first, second):
        one.every_s, one.settle_s = 0.4, 0.2
    objects.put("results/gone:1", b"x")
    assert first.collect(later()) == 0
    wait_until(lambda: second.collect(later()) == 0 and first.collect(later()) == 1, 10)
    objects.put("results/gone:2", b"x")
    # The first one died.
    wait_until(lambda: second.collect(later()) == 1, 10)


class TestOwnership:
    """Two services that are, by mistake, pointed at one object store."""

    @pytest.fixture
    def filled(
        self, store: Store, objects: ObjectStore, garbage: Garbage, valkey_url: str
    ) -> set[str]:
        """By a service whose store is then out of sight: there is another one, which is empty."""
        garbage.mark(time.time())
        fill(store, objects)
        litter(objects)
        connect(valkey_url).flushall()
        return keys(objects)

    def test_another_stores_things_are_left_alone(
        self,
        store: Store,
        objects: ObjectStore,
        tmp_path: Path,
        filled: set[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        for lasting in (True, False):
            other = garbage_of(store, objects, tmp_path, lasting=lasting)
            for _ in range(2):
                assert other.collect(later() + 10 * TTL_S) == 0
        assert keys(objects) == filled
        told = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(told) == 2
        assert "nothing is cleaned up in the object store" in told[0].message

    def test_an_operator_may_hand_them_over(
        self,
        store: Store,
        objects: ObjectStore,
        tmp_path: Path,
        filled: set[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        other = garbage_of(store, objects, tmp_path)
        assert other.collect(later()) == 0
        # As the message says.
        said = caplog.messages[-1]
        objects.put(MARKER, said[said.index("{") : said.index("}") + 1].encode())
        assert other.collect(later()) > 0
        # The checkpoints are everybody's.
        assert {path.name for path in Checkpoints(objects).paths()} == {"a", "plain"}

    def test_things_without_a_marker_are_left_alone(
        self,
        store: Store,
        objects: ObjectStore,
        tmp_path: Path,
        filled: set[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """They were written by a version that marks nothing."""
        objects.delete(MARKER)
        assert garbage_of(store, objects, tmp_path).collect(later()) == 0
        assert keys(objects) == filled
        assert "which this store does not know" in caplog.text

    def test_the_store_that_wrote_them_marks_them_then(
        self, store: Store, objects: ObjectStore, garbage: Garbage
    ) -> None:
        owned = fill(store, objects)
        assert garbage.collect(later()) > 0
        assert keys(objects) == owned

    def test_a_marker_that_cannot_be_read_is_anothers(
        self, objects: ObjectStore, garbage: Garbage
    ) -> None:
        objects.put("results/gone:1", b"x")
        objects.put(MARKER, b"?")
        assert garbage.collect(later()) == 0
        assert objects.exists("results/gone:1")

    def test_a_store_that_does_not_last_is_followed_by_the_next(
        self, store: Store, objects: ObjectStore, tmp_path: Path, valkey_url: str
    ) -> None:
        """persistence.mode disabled: nobody else can ever need what it left."""
        start = partial(garbage_of, store, objects, tmp_path, lasting=False)
        assert start().mark(time.time())
        litter(objects)
        connect(valkey_url).flushall()
        second = start()
        # The first may be running still.
        assert not second.mark(time.time())
        assert second.collect(time.time() + TTL_S - 50) == 0
        assert second.collect(later()) > 0
        assert keys(objects) == set()
        assert json.loads(objects.get(MARKER))["lasting"] is False


def test_an_object_store_that_goes_away_in_the_middle(
    store: Store, objects: ObjectStore, tmp_path: Path
) -> None:
    away = False

    def before(operation: str, key: str) -> None:
        if away and (operation, key) == ("list", "runs"):
            raise Unavailable("the object store is away")

    garbage = garbage_of(store, Observed(objects, before), tmp_path)
    garbage.mark(time.time())
    owned = fill(store, objects)
    litter(objects)
    away = True
    with pytest.raises(Unavailable):
        garbage.collect(later())
    assert owned < keys(objects)
    away = False
    garbage.collect(later())
    assert keys(objects) == owned
