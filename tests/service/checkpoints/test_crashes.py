"""A checkpoint exists or does not, whatever dies, fills up or interferes, whenever."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.helpers.objects import Crash, Observed, crash_at
from tests.service.checkpoints.samples import NEW, OLD, RUN_ID, manifest, scan
from tuft.checkpoints import Checkpoints
from tuft.contracts.records import CheckpointSettings
from tuft.errors import LeaseLost, NotFound, StorageFull, Unavailable
from tuft.objects import LocalObjects, ObjectStore

PLACE = f"runs/{RUN_ID}/weights/a"
PRIVATE = CheckpointSettings(expires_at=9.0)
PUBLIC = CheckpointSettings(public=True)


def objects_of(checkpoint_files: int, settings: int) -> int:
    return checkpoint_files + settings + 1


def count(objects: ObjectStore) -> int:
    return sum(1 for _ in objects.list(""))


def test_a_crash_at_every_moment_of_the_first_write(object_store: ObjectStore) -> None:
    whole = Checkpoints(object_store)
    # Two files, settings and the manifest are put.
    for moment in range(4):
        dying = Checkpoints(Observed(object_store, crash_at(moment)))
        with pytest.raises(Crash):
            dying.write(manifest(), OLD, settings=PRIVATE)
        assert count(object_store) == moment
        with pytest.raises(NotFound):
            whole.read(PLACE)
        assert scan(whole) == []
        whole.write(manifest(), NEW)
        assert whole.read_files(PLACE) == NEW
        assert whole.settings(PLACE) == CheckpointSettings()
        assert count(object_store) == objects_of(len(NEW), 0)
        whole.delete(RUN_ID, "weights", "a")
        assert count(object_store) == 0
    Checkpoints(Observed(object_store, crash_at(4))).write(manifest(), OLD, settings=PRIVATE)
    assert whole.read_files(PLACE) == OLD
    assert whole.settings(PLACE) == PRIVATE


def test_a_crash_at_every_moment_of_an_overwrite(object_store: ObjectStore) -> None:
    whole = Checkpoints(object_store)
    whole.write(manifest(step=1), OLD, settings=PRIVATE)
    seen: list[int] = []
    moment = 0
    while True:
        dying = Checkpoints(Observed(object_store, crash_at(moment)))
        try:
            dying.write(manifest(step=2), NEW, overwrite=True, settings=PUBLIC)
            break
        except Crash:
            found, files = whole.read(PLACE)
            settings = whole.settings(PLACE)
            expected = (OLD, PRIVATE) if found.step == 1 else (NEW, PUBLIC)
            assert (files, settings) == expected
            seen.append(found.step)
        moment += 1
    assert whole.read_files(PLACE) == NEW
    assert whole.settings(PLACE) == PUBLIC
    assert count(object_store) == objects_of(len(NEW), 1)
    # Both sides of the one moment that matters were seen.
    assert set(seen) == {1, 2}


def test_a_crash_at_every_moment_of_a_deletion(object_store: ObjectStore) -> None:
    whole = Checkpoints(object_store)
    for moment in range(4):
        whole.write(manifest(), OLD, settings=PRIVATE)
        with pytest.raises(Crash):
            Checkpoints(Observed(object_store, crash_at(moment))).delete(RUN_ID, "weights", "a")
        if moment == 0:
            assert whole.read_files(PLACE) == OLD
            assert whole.settings(PLACE) == PRIVATE
        else:
            with pytest.raises(NotFound):
                whole.manifest(PLACE)
            assert count(object_store) > 0
        whole.delete(RUN_ID, "weights", "a")
        assert count(object_store) == 0


def test_what_a_deletion_left_is_gone_after_the_next_write(object_store: ObjectStore) -> None:
    whole = Checkpoints(object_store)
    whole.write(manifest(), NEW, settings=PUBLIC)
    with pytest.raises(Crash):
        Checkpoints(Observed(object_store, crash_at(2))).delete(RUN_ID, "weights", "a")
    whole.write(manifest(), OLD)
    assert whole.read_files(PLACE) == OLD
    assert whole.settings(PLACE) == CheckpointSettings()
    assert count(object_store) == objects_of(len(OLD), 0)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.helpers.objects import Observed
from tests.service.checkpoints.samples import NEW, manifest
from tuft.checkpoints import Checkpoints
from tuft.objects import LocalObjects

def before(operation, key):
    if operation == "put" and key.endswith("/manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints(Observed(LocalObjects(Path(sys.argv[1])), before)).write(
    manifest(), NEW, overwrite=True
)
"""


def test_a_process_killed_between_files_and_manifest(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    whole = Checkpoints(store)
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    assert count(store) == len(NEW)
    with pytest.raises(NotFound):
        whole.read(PLACE)
    whole.write(manifest(), OLD)
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    assert whole.read_files(PLACE) == OLD
    whole.write(manifest(), NEW, overwrite=True)
    assert whole.read_files(PLACE) == NEW
    assert count(store) == objects_of(len(NEW), 0)


@pytest.mark.parametrize("error", [StorageFull("no room"), Unavailable("away")])
@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_write_that_fails_leaves_what_was(
    object_store: ObjectStore, error: Exception, moment: int
) -> None:
    whole = Checkpoints(object_store)
    puts = 0

    def before(operation: str, key: str) -> None:
        nonlocal puts
        if operation == "put":
            puts += 1
            if puts == moment + 1:
                raise error

    with pytest.raises(type(error)):
        Checkpoints(Observed(object_store, before)).write(manifest(), NEW)
    assert count(object_store) == 0
    whole.write(manifest(), OLD)
    puts = 0
    with pytest.raises(type(error)):
        Checkpoints(Observed(object_store, before)).write(manifest(), NEW, overwrite=True)
    assert whole.read_files(PLACE) == OLD
    assert count(object_store) == objects_of(len(OLD), 0)


def test_a_full_disk(small_disk: Path) -> None:
    store = LocalObjects(small_disk)
    whole = Checkpoints(store)
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 500_000}
    whole.write(manifest(), files)
    with pytest.raises(StorageFull, match="no space left"):
        whole.write(manifest(), files | {"optimizer.safetensors": b"y" * 500_000}, overwrite=True)
    assert whole.read_files(PLACE) == files
    assert count(store) == objects_of(2, 0)
    whole.delete(RUN_ID, "weights", "a")
    whole.write(manifest(), files)
    assert whole.read_files(PLACE) == files


def test_overwritten_while_it_is_read(object_store: ObjectStore) -> None:
    whole = Checkpoints(object_store)
    whole.write(manifest(step=1), OLD)
    again = [OLD, NEW]

    def before(operation: str, key: str) -> None:
        if operation == "get" and key.endswith("adapter_model.safetensors") and again:
            step = 4 - len(again)
            whole.write(manifest(step=step), again.pop(), overwrite=True)

    found, files = Checkpoints(Observed(object_store, before)).read(PLACE)
    assert found.step == 3
    assert files == OLD


def test_deleted_while_it_is_read(object_store: ObjectStore) -> None:
    whole = Checkpoints(object_store)
    whole.write(manifest(), OLD)

    def before(operation: str, key: str) -> None:
        if operation == "get" and key.endswith("adapter_model.safetensors"):
            whole.delete(RUN_ID, "weights", "a")

    with pytest.raises(NotFound, match="there is no checkpoint"):
        Checkpoints(Observed(object_store, before)).read(PLACE)


@pytest.mark.parametrize("late", ["adapter_config.json", "adapter_model.safetensors", "manifest"])
def test_a_writer_that_lost_its_lease(object_store: ObjectStore, late: str) -> None:
    """It was paused in the middle; another wrote the same name and deleted its leftovers."""
    whole = Checkpoints(object_store)
    paused = True

    def before(operation: str, key: str) -> None:
        nonlocal paused
        if operation == "put" and late in key and paused:
            paused = False
            whole.write(manifest(step=2), NEW)

    Checkpoints(Observed(object_store, before)).write(manifest(step=1), OLD)
    found, files = whole.read(PLACE)
    assert files == (OLD if found.step == 1 else NEW)
    assert count(object_store) == objects_of(len(files), 0)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_fenced_writer_that_lost_its_lease(
    object_store: ObjectStore, name: str, earlier: bool
) -> None:
    """It was stopped before it wrote a file; what its successor wrote stays as it is."""
    whole = Checkpoints(object_store)
    if earlier:
        whole.write(manifest(step=0), OLD)
    replaced = False

    def fence(of: str) -> None:
        if replaced and of == "old":
            raise LeaseLost("another trainer has taken over")

    def before(operation: str, key: str) -> None:
        nonlocal replaced
        if operation == "put" and name in key and not replaced:
            replaced = True
            whole.write(manifest(step=2), NEW, overwrite=True, fence=lambda: fence("new"))

    stopped = Checkpoints(Observed(object_store, before))
    with pytest.raises(LeaseLost):
        stopped.write(manifest(step=1), OLD, overwrite=True, fence=lambda: fence("old"))
    found, files = whole.read(PLACE)
    assert found.step == 2
    assert files == NEW
    assert count(object_store) == objects_of(len(NEW), 0)


def test_a_fenced_writer_tidies_nothing_of_its_successor(object_store: ObjectStore) -> None:
    """It was stopped after it had put its manifest, for long enough to be replaced."""
    whole = Checkpoints(object_store)
    replaced = False

    def fence() -> None:
        if replaced:
            raise LeaseLost("another trainer has taken over")

    def before(operation: str, key: str) -> None:
        nonlocal replaced
        if operation == "list" and not replaced:
            replaced = True
            whole.write(manifest(step=2), NEW, overwrite=True, fence=lambda: None)

    with pytest.raises(LeaseLost):
        Checkpoints(Observed(object_store, before)).write(manifest(step=1), OLD, fence=fence)
    assert whole.read_files(PLACE) == NEW
    assert count(object_store) == objects_of(len(NEW), 0)


@pytest.mark.parametrize("dies", [False, True])
def test_a_manifest_that_comes_late_is_of_a_whole_checkpoint(
    object_store: ObjectStore, dies: bool
) -> None:
    """The writer was stopped after its fence let it through, and is replaced meanwhile."""
    whole = Checkpoints(object_store)
    whole.write(manifest(step=0), OLD)
    replaced = False

    def fence() -> None:
        if replaced:
            raise LeaseLost("another trainer has taken over")

    def before(operation: str, key: str) -> None:
        nonlocal replaced
        if replaced and operation == "list" and dies:
            raise Crash(key)
        if operation == "put" and key.endswith("/manifest.json"):
            replaced = True
            whole.write(manifest(step=2), NEW, overwrite=True, fence=lambda: None)

    late = {"adapter_config.json": b"late"}
    with pytest.raises(Crash if dies else LeaseLost):
        Checkpoints(Observed(object_store, before)).write(
            manifest(step=1), late, overwrite=True, fence=fence
        )
    found, files = whole.read(PLACE)
    assert files == {1: late, 2: NEW}[found.step]
    # What it replaced went at once; what is left over goes later.
    whole.write(manifest(step=3), OLD, overwrite=True)
    assert count(object_store) == objects_of(len(OLD), 0)


def test_writers_and_readers_at_once(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    versions = [{"adapter_model.safetensors": bytes([i]) * (1000 + i)} for i in range(3)]
    checkpoints.write(manifest(step=0), versions[0])
    done = threading.Event()

    def write(step: int) -> None:
        while not done.is_set():
            checkpoints.write(manifest(step=step), versions[step], overwrite=True)

    writer = threading.Thread(target=write, args=(1,))
    writer.start()
    try:
        for _ in range(60):
            found, files = checkpoints.read(PLACE)
            assert files == versions[found.step]
    finally:
        done.set()
        writer.join()
