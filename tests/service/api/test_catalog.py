"""The index of checkpoints while it is being rebuilt."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.helpers.objects import Hook, Observed
from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import Api, config_of, serving
from tests.waiting import wait_until
from tuft.api.catalog import Catalog
from tuft.api.uses import session_user
from tuft.checkpoints import Checkpoints
from tuft.contracts.records import CheckpointRecord, CheckpointSettings
from tuft.errors import InvalidRequest, NotFound, Unavailable
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore


def catalog_of(api: Api) -> Catalog:
    """One whose scan has not begun."""
    return Catalog(api.store, api.services.checkpoints)


def test_a_checkpoint_is_found_before_the_scan_has_come_to_it(api: Api) -> None:
    run_id = api.run()
    record = write_checkpoint(api, run_id, "weights", "a", index=False)
    catalog = catalog_of(api)
    assert catalog.find("alice", record.manifest.path) == record
    with pytest.raises(InvalidRequest, match="exists already"):
        catalog.check_free(run_id, "weights", "a")
    catalog.check_free(run_id, "weights", "b")
    with pytest.raises(NotFound):
        catalog.find("bob", record.manifest.path)


def test_an_expired_one_is_not(api: Api) -> None:
    settings = CheckpointSettings(expires_at=1.0)
    record = write_checkpoint(api, api.run(), "weights", "a", index=False, settings=settings)
    with pytest.raises(NotFound):
        catalog_of(api).find("alice", record.manifest.path)


def test_lists_wait_for_the_scan(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    write_checkpoint(fresh_api, run_id, "weights", "a", index=False)
    catalog = catalog_of(fresh_api)
    found: list[int] = []
    lister = threading.Thread(target=lambda: found.append(catalog.of_tenant("alice", 10, 0)[1]))
    lister.start()
    catalog.start()
    lister.join(10)
    assert found == [1]


def observed(api: Api, before: Hook, where: str = "here") -> Catalog:
    return Catalog(api.store, Checkpoints(Observed(api.services.objects, before)), where)


def test_a_store_that_knows_the_object_store_scans_it_no_more(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    write_checkpoint(fresh_api, run_id, "weights", "a", index=False)
    listed: list[str] = []

    def before(operation: str, key: str) -> None:
        if operation == "list":
            listed.append(key)

    for where, scans in (("here", 1), ("here", 1), ("elsewhere", 2), ("elsewhere", 2)):
        catalog = observed(fresh_api, before, where)
        catalog.start()
        assert catalog.of_tenant("alice", 10, 0)[1] == 1
        assert len(listed) == scans


def test_a_scan_that_was_cut_short_is_done_again(
    fresh_api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(fresh_api, fresh_api.run(), "weights", "a", index=False)

    def before(operation: str, key: str) -> None:
        if operation == "get":
            raise Unavailable("the object store went away")

    cut_short = observed(fresh_api, before)
    cut_short.start()
    wait_until(lambda: "rebuilding the index" in caplog.text, 10)
    cut_short.stop()
    assert fresh_api.store.checkpoints.scanned() != "here"
    whole = observed(fresh_api, lambda operation, key: None)
    whole.start()
    assert whole.of_tenant("alice", 10, 0)[1] == 1


def test_nobody_waits_for_the_scan_who_asks_for_one(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    record = write_checkpoint(fresh_api, run_id, "weights", "a", index=False)
    go_on = threading.Event()

    def before(operation: str, key: str) -> None:
        if operation == "list":
            assert go_on.wait(30)

    catalog = observed(fresh_api, before)
    catalog.start()
    assert catalog.find("alice", record.manifest.path) == record
    assert catalog.use("alice", record.manifest.path, session_user("s")) == record
    catalog.check_free(run_id, "weights", "b")
    go_on.set()
    assert len(catalog.of_run(run_id)) == 1


def test_the_scan_does_not_bring_back_what_is_deleted_meanwhile(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    write_checkpoint(fresh_api, run_id, "weights", "a", index=False)

    class DeletedOnceRead(Checkpoints):
        """Another client deletes each checkpoint at the worst moment."""

        def listed(self, prefix: str) -> CheckpointRecord | None:
            record = super().listed(prefix)
            assert record is not None
            fresh_api.services.catalog.delete(record)
            return record

    catalog = Catalog(fresh_api.store, DeletedOnceRead(fresh_api.services.objects))
    catalog.start()
    catalog.wait_until_complete()
    with pytest.raises(NotFound):
        fresh_api.store.checkpoints.get(run_id, "weights", "a")


def test_the_scan_waits_for_a_store_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = EmbeddedStore(PersistenceConfig.from_file_redis(tmp_path / "data"), tmp_path)
    with serving(config_of(tmp_path), server.start()) as api:
        run_id = api.run()
        write_checkpoint(api, run_id, "weights", "a", index=False)
        server.stop()
        catalog = catalog_of(api)
        catalog.start()
        wait_until(lambda: "rebuilding the index" in caplog.text, 10)
        server.start()
        assert len(catalog.of_run(run_id)) == 1
    server.stop()
