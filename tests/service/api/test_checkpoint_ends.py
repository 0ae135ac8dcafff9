"""Deletion and expiry: gone at once for who comes, whole for who is using it, and then removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.objects import Crash, Observed, crash_at
from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import Api, Trainer, ok, refused
from tests.waiting import wait_until
from tuft.api import uses
from tuft.api.catalog import Catalog
from tuft.api.uses import Uses
from tuft.checkpoints import Checkpoints
from tuft.contracts.operations import Operation
from tuft.contracts.records import CheckpointRecord, CheckpointSettings, SnapshotRecord
from tuft.errors import InvalidRequest, NotFound, Unavailable
from tuft.objects import LocalObjects, ObjectStore
from tuft.store import connect
from tuft.store.checkpoints import place_of


def one(run_id: str, name: str = "a") -> str:
    return f"/api/v1/training_runs/{run_id}/checkpoints/weights/{name}"


def delete(api: Api, run_id: str) -> None:
    assert api.http.delete(one(run_id)).status_code == 204


def files(api: Api, run_id: str) -> list[str]:
    return [info.key for info in api.services.objects.list(f"runs/{run_id}/weights/a")]


def sample_from(api: Api, path: str, session_id: str | None = None) -> str:
    """A sampling session; the id of its session."""
    session_id = session_id or api.session()
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "model_path": path}
    ok(api.post("create_sampling_session", body))
    return session_id


def finish(api: Api, session_id: str) -> None:
    body = {"reason": {"type": "success"}}
    answer = api.http.post(f"/api/v1/sessions/{session_id}/finish", json=body)
    assert answer.status_code == 204, answer.text


def sweep(api: Api, later: float = 0.0) -> None:
    catalog = api.services.catalog
    while catalog.sweep(time.time() + later) == 100:
        pass


class TestSampled:
    """A sampling session of the checkpoint is open when its owner deletes it."""

    @pytest.fixture
    def saved(self, api: Api) -> CheckpointRecord:
        return write_checkpoint(api, api.run(), "weights", "a")

    def test_it_is_gone_for_who_comes(self, api: Api, saved: CheckpointRecord) -> None:
        run_id, path = saved.manifest.run.run_id, saved.manifest.path
        session_id = sample_from(api, path)
        delete(api, run_id)
        body = {"session_id": session_id, "sampling_session_seq_id": 1, "model_path": path}
        refused(api.post("create_sampling_session", body), 404)
        load = {"session_id": session_id, "model_seq_id": 0, "path": path, "optimizer": True}
        refused(api.post("load_weights", load), 404)
        refused(api.post("weights_info", {"tinker_path": path}), 404)
        refused(api.http.delete(one(run_id)), 404)
        refused(api.http.post(f"{one(run_id)}/publish"), 404)
        assert ok(api.get(f"training_runs/{run_id}/checkpoints")) == {"checkpoints": []}
        listed = ok(api.get("checkpoints?limit=1000"))["checkpoints"]
        assert path not in [entry["tinker_path"] for entry in listed]

    def test_its_files_stay_as_long_as_the_session(self, api: Api, saved: CheckpointRecord) -> None:
        run_id = saved.manifest.run.run_id
        first, second = (sample_from(api, saved.manifest.path) for _ in range(2))
        delete(api, run_id)
        prefix = f"runs/{run_id}/weights/a"
        for ended in (first, second):
            sweep(api, later=3600)
            assert api.services.checkpoints.read_files(prefix)
            finish(api, ended)
        sweep(api, later=7200)
        assert files(api, run_id) == []
        with pytest.raises(NotFound):
            api.store.checkpoints.get(run_id, "weights", "a")

    def test_a_session_that_is_not_heard_of_counts_no_more(
        self, api: Api, saved: CheckpointRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sample_from(api, saved.manifest.path)
        monkeypatch.setattr(uses, "HEARD_OF_S", 0.0)
        delete(api, saved.manifest.run.run_id)
        assert files(api, saved.manifest.run.run_id) == []

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_its_name_is_taken_until_then(
        self, api: Api, saved: CheckpointRecord, overwrite: bool
    ) -> None:
        run_id = saved.manifest.run.run_id
        session_id = sample_from(api, saved.manifest.path)
        delete(api, run_id)
        body = {"model_id": run_id, "seq_id": 1, "path": "a", "overwrite": overwrite}
        message = refused(api.post("save_weights", body))
        assert f"still used by session {session_id}" in message
        finish(api, session_id)
        ok(api.post("save_weights", body | {"seq_id": 2}))
        assert files(api, run_id) == []

    def test_a_trainer_does_not_write_over_it(self, api: Api, saved: CheckpointRecord) -> None:
        """The request was accepted before the deletion."""
        sample_from(api, saved.manifest.path)
        delete(api, saved.manifest.run.run_id)
        with pytest.raises(InvalidRequest, match="was deleted and is still in use"):
            write_checkpoint(api, saved.manifest.run.run_id, "weights", "a")

    def test_another_tenants_session_counts_too(self, api: Api, saved: CheckpointRecord) -> None:
        run_id = saved.manifest.run.run_id
        assert api.http.post(f"{one(run_id)}/publish").status_code == 204
        body = {"session_id": api.session(**api.bob()), "sampling_session_seq_id": 0}
        path = saved.manifest.path
        ok(api.post("create_sampling_session", body | {"model_path": path}, **api.bob()))
        delete(api, run_id)
        assert files(api, run_id)

    def test_it_is_not_back_after_a_restart_without_persistence(
        self, fresh_api: Api, valkey_url: str
    ) -> None:
        saved = write_checkpoint(fresh_api, fresh_api.run(), "weights", "a")
        sample_from(fresh_api, saved.manifest.path)
        delete(fresh_api, saved.manifest.run.run_id)
        connect(valkey_url).flushall()
        catalog = Catalog(fresh_api.store, fresh_api.services.checkpoints)
        catalog.start()
        assert catalog.of_tenant("alice", 10, 0) == ([], 0)
        with pytest.raises(NotFound):
            catalog.find("alice", saved.manifest.path)
        catalog.sweep(time.time())
        assert files(fresh_api, saved.manifest.run.run_id) == []


class TestLoaded:
    """An operation that loads the checkpoint was accepted when its owner deletes it."""

    @pytest.fixture(params=["a run", "a new run"])
    def loading(self, request: pytest.FixtureRequest, api: Api) -> tuple[str, str, int]:
        """The run of the checkpoint, the one that loads it, and the operation's seq_id."""
        source = api.run()
        path = write_checkpoint(api, source, "weights", "a").manifest.path
        body = {"path": path, "optimizer": False}
        if request.param == "a run":
            target = api.run()
            ok(api.post("load_weights", body | {"model_id": target, "seq_id": 1}))
            return source, target, 1
        made = {"session_id": api.session(), "model_seq_id": 0}
        return source, ok(api.post("load_weights", body | made))["model_id"], 0

    def test_until_a_snapshot_holds_it(
        self, api: Api, trainer: Trainer, loading: tuple[str, str, int]
    ) -> None:
        source, target, seq_id = loading
        delete(api, source)
        assert files(api, source)
        trainer.complete_all(target)
        # A trainer that starts anew would load it again.
        sweep(api, later=3600)
        assert files(api, source)
        snapshot = SnapshotRecord(seq_id=seq_id, prefix="runs/x/snapshots/1", step=0)
        trainer.store.journal.set_snapshot(trainer.lease, target, snapshot)
        sweep(api, later=7200)
        assert files(api, source) == []

    def test_until_it_has_failed(
        self, api: Api, trainer: Trainer, loading: tuple[str, str, int]
    ) -> None:
        source, target, _ = loading
        delete(api, source)
        assert files(api, source)
        for entry in trainer.pending(target):
            assert isinstance(entry, Operation)
            trainer.complete(entry, error="it went wrong")
        sweep(api, later=3600)
        assert files(api, source) == []

    def test_one_that_was_refused_does_not_count(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uses, "_ENTERED_S", 0.0)
        source = api.run(rank=4)
        path = write_checkpoint(api, source, "weights", "a").manifest.path
        body = {"model_id": api.run(rank=8), "seq_id": 1, "path": path, "optimizer": False}
        assert "another adapter" in refused(api.post("load_weights", body))
        delete(api, source)
        assert files(api, source) == []

    def test_one_that_is_on_its_way_counts(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has entered, and is not in the journal yet."""
        source = api.run()
        saved = write_checkpoint(api, source, "weights", "a")
        for target in (api.run(), "a run that is about to be made"):
            Uses(api.store).enter(place_of(saved), uses.operation_user(target, 1))
        delete(api, source)
        assert files(api, source)
        monkeypatch.setattr(uses, "_ENTERED_S", 0.0)
        sweep(api, later=3600)
        assert files(api, source) == []


def test_who_enters_while_it_is_deleted_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = write_checkpoint(api, api.run(), "weights", "a")
    real = Uses.enter

    def enter(self: Uses, *arguments: Any) -> None:
        # The deletion found nobody: too late for this one.
        api.services.catalog.delete(saved)
        real(self, *arguments)

    monkeypatch.setattr(Uses, "enter", enter)
    body = {"session_id": api.session(), "sampling_session_seq_id": 0}
    refused(api.post("create_sampling_session", body | {"model_path": saved.manifest.path}), 404)


def test_users_that_have_gone_are_forgotten(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "_TIDY_EVERY", 3)
    saved = write_checkpoint(api, api.run(), "weights", "a")
    place = place_of(saved)
    for _ in range(2):
        finish(api, sample_from(api, saved.manifest.path))
    assert len(api.store.checkpoints.users(place)) == 2
    stays = sample_from(api, saved.manifest.path)
    assert list(api.store.checkpoints.users(place)) == [uses.session_user(stays)]


class TestExpiry:
    def test_the_files_go_though_nobody_asks(self, api: Api) -> None:
        run_id = api.run()
        saved = write_checkpoint(api, run_id, "weights", "a")
        answer = api.http.put(f"{one(run_id)}/ttl", json={"ttl_seconds": 3600})
        assert answer.status_code == 204
        write_checkpoint(
            api, run_id, "weights", "b", settings=CheckpointSettings(expires_at=time.time() + 3600)
        )
        sweep(api, later=3500)
        assert len(ok(api.get(f"training_runs/{run_id}/checkpoints"))["checkpoints"]) == 2
        sweep(api, later=3700)
        assert list(api.services.objects.list(f"runs/{run_id}")) == []
        assert api.store.checkpoints.list_run(run_id) == []
        assert place_of(saved) not in api.store.checkpoints.ending(2e9, 1000)

    def test_one_that_got_more_time_stays(self, api: Api) -> None:
        run_id = api.run()
        write_checkpoint(api, run_id, "weights", "a", settings=CheckpointSettings(expires_at=9e9))
        for ttl in (3600, 36000, None):
            answer = api.http.put(f"{one(run_id)}/ttl", json={"ttl_seconds": ttl})
            assert answer.status_code == 204
        sweep(api, later=40000)
        assert files(api, run_id)

    def test_one_that_was_written_again_stays(self, api: Api) -> None:
        run_id = api.run()
        settings = CheckpointSettings(expires_at=time.time() + 50)
        write_checkpoint(api, run_id, "weights", "a", settings=settings)
        write_checkpoint(api, run_id, "weights", "a", index=False)
        sweep(api, later=60)
        assert files(api, run_id)
        (record,) = api.store.checkpoints.list_run(run_id)
        assert record.settings.expires_at is None

    def test_one_that_is_sampled_stays_for_that_session(self, api: Api) -> None:
        run_id = api.run()
        settings = CheckpointSettings(expires_at=time.time() + 50)
        saved = write_checkpoint(api, run_id, "weights", "a", settings=settings)
        session_id = sample_from(api, saved.manifest.path)
        sweep(api, later=60)
        assert files(api, run_id)
        assert ok(api.get(f"training_runs/{run_id}/checkpoints")) == {"checkpoints": []}
        finish(api, session_id)
        sweep(api, later=3600)
        assert files(api, run_id) == []


class TestCrashes:
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return LocalObjects(tmp_path / "of the checkpoints")

    @pytest.fixture
    def write(self, fresh_api: Api, objects: ObjectStore) -> Callable[[], CheckpointRecord]:
        run = fresh_api.store.runs.get(fresh_api.run())

        def write() -> CheckpointRecord:
            record = write_checkpoint(fresh_api, run.run_id, "weights", "a", index=False)
            fresh_api.services.checkpoints.delete(*place_of(record))
            files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"12345678"}
            record = Checkpoints(objects).write(record.manifest, files)
            fresh_api.store.checkpoints.put(record)
            return record

        return write

    def test_a_deletion_that_has_begun_ends(
        self,
        fresh_api: Api,
        objects: ObjectStore,
        write: Callable[[], CheckpointRecord],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The settings are put, then the manifest, two files and the settings are deleted."""
        monkeypatch.setattr("tuft.api.catalog._REMOVAL_S", 0.3)
        catalog_of = partial(Catalog, fresh_api.store)
        for moment in range(5):
            record = write()
            dying = catalog_of(Checkpoints(Observed(objects, crash_at(moment))))
            with pytest.raises(Crash):
                dying.delete(record)
            after = catalog_of(Checkpoints(objects))
            if moment == 0:
                assert after.find("alice", record.manifest.path) == record
                after.delete(record)
            else:
                with pytest.raises(NotFound):
                    after.find("alice", record.manifest.path)
                # Until the claim of the dead one is over.
                wait_until(partial(self.sweep, after, count(1)), 10)
            assert list(objects.list("runs")) == []
            after.check_free(*place_of(record))

    def sweep(self, catalog: Catalog, hours: Iterator[int]) -> bool:
        return catalog.sweep(time.time() + 3600 * next(hours)) == 0

    def test_an_objects_that_goes_away(
        self, fresh_api: Api, objects: ObjectStore, write: Callable[[], CheckpointRecord]
    ) -> None:
        """The client is told that it is deleted, and it is."""
        record = write()

        def before(operation: str, key: str) -> None:
            if operation == "delete":
                raise Unavailable("the object store is away")

        catalog = Catalog(fresh_api.store, Checkpoints(Observed(objects, before)))
        assert catalog.delete(record) == "its removal, which is under way"
        catalog.sweep(time.time())
        assert list(objects.list("runs")) != []
        Catalog(fresh_api.store, Checkpoints(objects)).sweep(time.time() + 3600)
        assert list(objects.list("runs")) == []

    def test_two_do_not_remove_the_same(
        self, fresh_api: Api, objects: ObjectStore, write: Callable[[], CheckpointRecord]
    ) -> None:
        """The slower one would remove what was written since."""
        record = write()
        quick = Catalog(fresh_api.store, Checkpoints(objects))
        said: list[str | None] = []

        def before(operation: str, key: str) -> None:
            if operation == "delete" and not said:
                said.append(quick.delete(record))
                with pytest.raises(InvalidRequest, match="its removal"):
                    quick.check_free(*place_of(record))

        slow = Catalog(fresh_api.store, Checkpoints(Observed(objects, before)))
        assert slow.delete(record) is None
        assert said == ["its removal, which is under way"]
        quick.check_free(*place_of(record))
