"""What every object store must do, on both backends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tuft.errors import InvalidRequest, NotFound, StorageFull
from tuft.objects import ObjectStore


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(info.key for info in store.list(prefix))


def test_put_get_replace_delete(object_store: ObjectStore) -> None:
    key = "runs/s-1:train:0/weights/a b+ü/adapter_model.safetensors"
    assert not object_store.exists(key)
    object_store.put(key, b"\x00first\xff")
    assert object_store.get(key) == b"\x00first\xff"
    assert object_store.exists(key)
    object_store.put(key, b"second")
    assert object_store.get(key) == b"second"
    assert [(info.key, info.size) for info in object_store.list("")] == [(key, 6)]
    object_store.delete(key)
    assert not object_store.exists(key)
    assert keys(object_store) == []


def test_a_missing_object(object_store: ObjectStore) -> None:
    object_store.put("a/b", b"")
    for absent in ("nothing", "a", "a/b2", "a/b/c"):
        assert not object_store.exists(absent)
        with pytest.raises(NotFound, match=absent):
            object_store.get(absent)
        object_store.delete(absent)
    assert object_store.get("a/b") == b""


def test_put_file(object_store: ObjectStore, tmp_path: Path) -> None:
    for size in (0, 3_000_000):
        source = tmp_path / f"source-{size}"
        source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        object_store.put_file("files/x", source)
        assert object_store.get("files/x") == source.read_bytes()
        assert source.exists()


def test_get_file(object_store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for content in (b"", bytes(range(256)) * 12_000):
        object_store.put("files/x", content)
        object_store.get_file("files/x", target)
        assert target.read_bytes() == content
    for absent in ("files/y", "files"):
        with pytest.raises(NotFound):
            object_store.get_file(absent, target)
    assert target.read_bytes() == content
    assert [*target.parent.glob(".*.part")] == []


def test_get_file_where_this_machine_has_no_room(
    object_store: ObjectStore, small_disk: Path
) -> None:
    object_store.put("large", b"x" * 3_000_000)
    with pytest.raises(StorageFull, match="no space left"):
        object_store.get_file("large", small_disk / "target")
    assert list(small_disk.iterdir()) == []


def test_when_an_object_was_changed(object_store: ObjectStore) -> None:
    began = time.time()
    object_store.put("a", b"x")
    (info,) = object_store.list("")
    # Servers tell whole seconds.
    assert began - 2 < info.changed_at < time.time() + 2


def test_a_sweep_takes_no_object(object_store: ObjectStore) -> None:
    object_store.put("a", b"x")
    assert object_store.sweep(time.time() + 3600) == 0
    assert object_store.get("a") == b"x"


def test_an_object_larger_than_one_part(object_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * (70 * 4096))
    object_store.put_file("large", source)
    assert object_store.get("large") == source.read_bytes()


def test_list_is_by_folder(object_store: ObjectStore) -> None:
    written = ["r/a/2", "r/a/10", "r/a-b/1", "r/ab/1", "r/a.txt", "r/B/x/y/z", "r/é", "q"]
    for key in written:
        object_store.put(key, key.encode())
    assert keys(object_store) == sorted(written)
    assert keys(object_store, "r/a") == ["r/a/10", "r/a/2"]
    assert keys(object_store, "r/a/") == ["r/a/10", "r/a/2"]
    assert keys(object_store, "r/B") == ["r/B/x/y/z"]
    assert keys(object_store, "r/a/2") == []
    assert keys(object_store, "nothing") == []


def test_delete_prefix_stays_in_its_folder(object_store: ObjectStore) -> None:
    for key in ("r/a/1", "r/a/b/2", "r/ab/1", "r/a.x", "s/1"):
        object_store.put(key, b"x")
    object_store.delete_prefix("r/a")
    assert keys(object_store) == ["r/a.x", "r/ab/1", "s/1"]
    object_store.delete_prefix("r/a")
    with pytest.raises(InvalidRequest, match="empty"):
        object_store.delete_prefix("")
    assert keys(object_store) == ["r/a.x", "r/ab/1", "s/1"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "a//b",
        "a/",
        "..",
        "../a",
        "runs/../../a",
        "runs/./a",
        "a\x00b",
        "a\nb",
        "a\\..\\b",
        ".tmp/a",
        "a/.tmp",
        "a" * 256,
        "a/" * 450 + "a",
        "\ud800",
    ],
)
def test_keys_that_are_refused(object_store: ObjectStore, tmp_path: Path, key: str) -> None:
    source = tmp_path / "source"
    source.touch()
    for use in (
        lambda: object_store.put(key, b"x"),
        lambda: object_store.put_file(key, source),
        lambda: object_store.get(key),
        lambda: object_store.exists(key),
        lambda: object_store.delete(key),
    ):
        with pytest.raises(InvalidRequest, match="object key"):
            use()
    if key not in ("", "a/"):
        with pytest.raises(InvalidRequest, match="object key"):
            list(object_store.list(key))
        with pytest.raises(InvalidRequest, match="object key"):
            object_store.delete_prefix(key)


def test_readers_never_see_half_an_object(object_store: ObjectStore) -> None:
    versions = {byte * 300_000 for byte in (b"a", b"b", b"c")}
    object_store.put("shared", b"a" * 300_000)
    stop = threading.Event()

    def write(data: bytes) -> None:
        while not stop.is_set():
            object_store.put("shared", data)

    writers = [threading.Thread(target=write, args=(data,)) for data in versions]
    for writer in writers:
        writer.start()
    try:
        seen = {object_store.get("shared") for _ in range(150)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert seen <= versions


def test_list_while_others_write(object_store: ObjectStore) -> None:
    steady = {f"mixed/steady-{i}/x" for i in range(20)}
    for key in steady:
        object_store.put(key, b"whole")
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn(number: int) -> None:
        try:
            while not stop.is_set():
                for i in range(5):
                    object_store.put(f"mixed/other-{i}/{number}", b"whole")
                    object_store.put(f"mixed/steady-{i}/x", b"whole")
                for i in range(5):
                    object_store.delete(f"mixed/other-{i}/{number}")
        # Whatever goes wrong in the thread belongs to the test's result.
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            found = list(object_store.list("mixed"))
            names = [info.key for info in found]
            assert steady <= set(names)
            assert len(names) == len(set(names))
            assert {info.size for info in found} == {5}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(keys(object_store, "mixed")) == steady


def test_check(object_store: ObjectStore) -> None:
    object_store.check()
    assert keys(object_store) == []
