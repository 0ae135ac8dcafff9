"""What only the folder backend can get wrong: crashes, a full disk, sync."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tuft.config import ObjectStoreConfig
from tuft.errors import ConfigError, InvalidRequest, StorageFull, Unavailable
from tuft.objects import LocalObjects, open_object_store

# Reads the object's content from a pipe, so that the test decides how far the write gets.
_WRITER = """
import sys
from pathlib import Path
from tuft.objects import LocalObjects
LocalObjects(Path(sys.argv[1])).put_file("a/b", Path(sys.argv[2]))
"""


def test_a_killed_put_leaves_nothing_to_see(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "objects")
    store.put("a/b", b"before")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path / "objects", pipe])
    with pipe.open("wb") as content:
        content.write(b"x" * 2_500_000)
        content.flush()
        unfinished = tmp_path / "objects" / ".tmp"
        wait_until(lambda: any(f.stat().st_size > 0 for f in unfinished.iterdir()), 30)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert len(list(unfinished.iterdir())) == 1
    assert store.get("a/b") == b"before"
    assert [info.key for info in store.list("")] == ["a/b"]


def test_what_dead_writers_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    LocalObjects(tmp_path)
    old, fresh = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "fresh"
    for file in (old, fresh):
        file.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    LocalObjects(tmp_path)
    assert not old.exists()
    assert fresh.exists()


def test_a_put_is_synced_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalObjects(tmp_path)
    done: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}"))
        done.append("sync " + ("data" if name.parent.name == ".tmp" else name.name))
        real_fsync(handle)

    def replace(source: Path, target: Path) -> None:
        done.append(f"rename to {target.name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    store.put("x/y/z", b"data")
    assert done == ["sync data", "rename to z", "sync y", "sync x", f"sync {tmp_path.name}"]
    done.clear()
    store.delete("x/y/z")
    assert done[:1] == ["sync y"]
    assert not (tmp_path / "x").exists()


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    store = LocalObjects(small_disk)
    store.put("old", b"o" * 400_000)
    large = tmp_path / "large"
    large.write_bytes(b"x" * 2_000_000)
    with pytest.raises(StorageFull, match="no space left"):
        store.put("old", large.read_bytes())
    with pytest.raises(StorageFull, match="no space left"):
        store.put_file("new", large)
    assert store.get("old") == b"o" * 400_000
    assert [info.key for info in store.list("")] == ["old"]
    assert list((small_disk / ".tmp").iterdir()) == []
    store.put("new", b"n" * 400_000)
    assert store.get("new") == b"n" * 400_000


def test_a_key_that_is_a_folder_of_another(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    store.put("a/b", b"x")
    for key in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(InvalidRequest, match="folder of another object"):
            store.put(key, b"y")
    assert [info.key for info in store.list("")] == ["a/b"]
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_folder_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "objects")
    (tmp_path / "objects").rename(tmp_path / "away")
    for use in (store.check, lambda: store.put("a", b"x")):
        with pytest.raises(Unavailable, match=r"objects.*No such file"):
            use()
    # What is not found now is not known to be missing.
    for look in (lambda: store.get("a"), lambda: store.exists("a"), lambda: [*store.list("")]):
        with pytest.raises(Unavailable, match="is gone"):
            look()
    # An empty mount point, say: nothing may be written there.
    (tmp_path / "objects").mkdir()
    for use in (store.check, lambda: store.put("a", b"x")):
        with pytest.raises(Unavailable, match=r"objects.*No such file"):
            use()
    assert list((tmp_path / "objects").iterdir()) == []
    (tmp_path / "objects").rmdir()
    (tmp_path / "away").rename(tmp_path / "objects")
    store.check()
    store.put("a", b"x")
    assert store.get("a") == b"x"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be used"):
        LocalObjects(tmp_path / "file" / "objects")


def test_open_by_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"object_store\.path"):
        open_object_store(ObjectStoreConfig())
    open_object_store(ObjectStoreConfig(), tmp_path / "default").put("a", b"1")
    assert (tmp_path / "default" / "a").read_bytes() == b"1"
    config = ObjectStoreConfig(path=tmp_path / "named", prefix="team/x")
    open_object_store(config, tmp_path / "default").put("a", b"2")
    assert (tmp_path / "named" / "team" / "x" / "a").read_bytes() == b"2"
    with pytest.raises(ConfigError, match="prefix"):
        open_object_store(ObjectStoreConfig(prefix="../x"), tmp_path)


def test_a_folder_that_a_delete_tidies_away_under_a_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalObjects(tmp_path)
    store.put("a/b/old", b"x")
    real_replace = os.replace
    others = [lambda: store.delete("a/b/old"), lambda: store.put("a/b/old", b"x")] * 3

    def replace(source: Path, target: Path) -> None:
        if target.name == "new" and others:
            # The folder was there when the put looked; now it may be gone.
            others.pop(0)()
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    for _ in range(3):
        store.put("a/b/new", b"whole")
        assert store.get("a/b/new") == b"whole"
        store.delete("a/b/new")
