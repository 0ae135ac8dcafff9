"""The power goes: whatever was acknowledged is there afterwards, whole, and nothing half is."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
import redis

from tests.helpers.objects import Crash
from tests.helpers.power_cut import GENTLE, HARSH, Disk, power_cut_disk
from tests.service.checkpoints.samples import RUN_ID
from tests.service.checkpoints.samples import manifest as manifest_of
from tuft.checkpoints import Checkpoints, handover
from tuft.checkpoints.handover import Handover
from tuft.errors import DamagedCheckpoint, NotFound, TuftError
from tuft.objects import LocalObjects
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, connect

SEED = 20_261_123


class Subject(Protocol):
    """Something that promises: what `write` or `remove` returned from survives."""

    def write(self, name: str, content: bytes) -> None: ...
    def remove(self, name: str) -> None: ...
    def read(self, name: str) -> bytes | None: ...
    def check_all(self) -> None:
        """Everything that is visible is whole."""


class Objects:
    def __init__(self, folder: Path) -> None:
        self._objects = LocalObjects(folder / "objects")

    def write(self, name: str, content: bytes) -> None:
        self._objects.put(f"payloads/{name}/1", content)

    def remove(self, name: str) -> None:
        self._objects.delete(f"payloads/{name}/1")

    def read(self, name: str) -> bytes | None:
        try:
            return self._objects.get(f"payloads/{name}/1")
        except NotFound:
            return None

    def check_all(self) -> None:
        for info in self._objects.list(""):
            content = self._objects.get(info.key)
            assert _is_whole(content), f"{info.key} is there in part: {len(content)} bytes"


class SavedCheckpoints:
    """As a trainer saves them: overwritten again and again, several files each."""

    def __init__(self, folder: Path) -> None:
        self._objects = LocalObjects(folder / "objects")
        self._checkpoints = Checkpoints(self._objects)
        self._numbers = itertools.count()

    def write(self, name: str, content: bytes) -> None:
        files = {"adapter_config.json": b"{}", "adapter_model.safetensors": content}
        self._checkpoints.write(manifest_of(name), files, overwrite=True)

    def remove(self, name: str) -> None:
        self._checkpoints.delete(RUN_ID, "weights", name)

    def read(self, name: str) -> bytes | None:
        try:
            files = self._checkpoints.read_files(Checkpoints.prefix_of(RUN_ID, "weights", name))
        except NotFound:
            return None
        return files["adapter_model.safetensors"]

    def check_all(self) -> None:
        manifests = [info.key for info in self._objects.list("") if "manifest.json" in info.key]
        for key in manifests:
            self._checkpoints.read(key.removesuffix("/manifest.json"))


class HandedPolicies:
    """As the trainer hands them to samplers; a removed one has been uploaded."""

    def __init__(self, folder: Path) -> None:
        self._handover = Handover(folder / "state" / "handover", sync=True)

    def write(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        manifest = manifest_of("policy", request_id=f"{name}:{digest}")
        self._handover.put(name, manifest, {"adapter_model.safetensors": content})

    def remove(self, name: str) -> None:
        self._handover.uploaded(name)

    def read(self, name: str) -> bytes | None:
        handed = self._handover.get(name)
        return None if handed is None else bytes(handed.files["adapter_model.safetensors"])

    def check_all(self) -> None:
        before = self._handover.waiting()
        assert self._handover.waiting() == before, "a file that waits for its upload is damaged"


@dataclass
class Promises:
    """What one writer was told, by name: the content, None where it was removed."""

    kept: dict[str, bytes | None] = field(default_factory=dict)
    begun: tuple[str, bytes | None] | None = None
    """What it had asked for, and was not told."""

    def check(self, subject: Subject, *, may_stay: bool) -> None:
        """`may_stay`: what was removed may still be there."""
        asked = () if self.begun is None else (self.begun,)
        for name in {*self.kept, *(name for name, _ in asked)}:
            promised = self.kept.get(name)
            allowed = [promised, *(content for other, content in asked if other == name)]
            found = subject.read(name)
            if may_stay and None in allowed:
                assert found is None or _is_whole(found), f"{name}: {_shown(found)}"
                # Removed, as far as anyone may rely on it, unless it is what was asked for.
                found = found if found in allowed and promised is None else None
            elif found not in allowed:
                raise AssertionError(f"{name}: {_shown(found)}, promised {_shown(promised)}")
            self.kept[name] = found
        self.begun = None


@dataclass
class Writer:
    """Writes and removes for as long as the disk lets it; its names are its own."""

    name: str
    random: random.Random
    promises: Promises = field(default_factory=Promises)
    told: int = 0

    def go_on(self, subject: Subject, told: Callable[[], None]) -> None:
        """Until the power is cut."""
        with suppress(TuftError, OSError):
            while True:
                self._one(subject)
                self.told += 1
                told()

    def _one(self, subject: Subject) -> None:
        name = f"{self.name}-{self.random.randrange(6)}"
        content: bytes | None = None
        if self.promises.kept.get(name) is None or self.random.random() < 0.6:
            content = _content(self.random)
        self.promises.begun = (name, content)
        if content is None:
            subject.remove(name)
        else:
            subject.write(name, content)
        self.promises.kept[name] = content
        self.promises.begun = None


def _content(source: random.Random) -> bytes:
    body = source.randbytes(source.choice([16, 100, 5_000, 200_000]))
    return hashlib.sha256(body).digest() + body


def _is_whole(content: bytes) -> bool:
    return hashlib.sha256(content[32:]).digest() == content[:32]


def _shown(content: bytes | None) -> str:
    return "nothing" if content is None else f"{len(content)} bytes {content[:4].hex()}…"


def _round(disk: Disk, open_subject: Callable[[Path], Subject], writers: list[Writer]) -> None:
    """Writers at work, a cut, and the next boot.

    One writer cuts the power the moment that it is told; several have it cut at any time.
    """
    subject = open_subject(disk.folder)
    chance = writers[0].random
    after = chance.randrange(1, 8)
    told = itertools.count(1)

    def cut_at_last() -> None:
        if next(told) == after and len(writers) == 1:
            disk.cut()

    threads = [threading.Thread(target=w.go_on, args=(subject, cut_at_last)) for w in writers]
    for thread in threads:
        thread.start()
    if len(writers) > 1:
        time.sleep(chance.uniform(0.0, 0.1))
        disk.cut()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    del subject
    disk.boot()
    found = open_subject(disk.folder)
    for writer in writers:
        writer.promises.check(found, may_stay=isinstance(found, HandedPolicies))
    found.check_all()


def _rounds(
    folder: Path, open_subject: Callable[[Path], Subject], options: str, rounds: int
) -> int:
    """How many writes were acknowledged, with one writer and with three in turn."""
    source = random.Random(SEED)
    with power_cut_disk(folder, options=options) as disk:
        crowd = [Writer(f"w{n}", random.Random(source.random())) for n in range(4)]
        for number in range(rounds):
            _round(disk, open_subject, crowd[:1] if number % 2 else crowd[1:])
        assert disk.cuts == rounds
        return sum(writer.told for writer in crowd)


@pytest.fixture(autouse=True)
def nothing_stays_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest keeps what is logged: an error, its traceback, and the file that was mapped there."""
    monkeypatch.setattr(handover.log, "disabled", True)


@pytest.fixture(params=[GENTLE, HARSH], ids=["gentle", "harsh"])
def options(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("subject", [Objects, SavedCheckpoints, HandedPolicies])
def test_what_was_acknowledged_survives(
    tmp_path: Path, options: str, subject: Callable[[Path], Subject]
) -> None:
    assert _rounds(tmp_path, subject, options, rounds=6) > 10


@pytest.mark.parametrize("subject", [Objects, SavedCheckpoints, HandedPolicies])
@pytest.mark.parametrize("forgotten", [stat.S_ISREG, stat.S_ISDIR], ids=["files", "folders"])
def test_a_forgotten_sync_is_seen(
    tmp_path: Path,
    subject: Callable[[Path], Subject],
    forgotten: Callable[[int], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of these tests themselves: without the syncs of files, or of folders, they fail."""
    real = os.fsync

    def sync(handle: int) -> None:
        if not forgotten(os.fstat(handle).st_mode):
            real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises((AssertionError, DamagedCheckpoint)):
        _rounds(tmp_path, subject, HARSH, rounds=20)


@pytest.mark.parametrize("rewritten", [False, True], ids=["appended", "rewritten"])
def test_what_the_store_took_survives(tmp_path: Path, options: str, rewritten: bool) -> None:
    """The embedded server's append-only file, also while it is written anew."""
    taken = 0
    with power_cut_disk(tmp_path, options=options) as disk:
        for wanted in (1, 30, 100):
            with _store_on(disk, tmp_path) as (_, client):
                assert int(client.get("taken") or 0) in (taken, taken + 1)
                if rewritten:
                    client.bgrewriteaof()
                with suppress(redis.exceptions.RedisError):
                    for taken in range(taken + 1, taken + wanted + 1):  # noqa: B020
                        client.set("taken", taken)
                    disk.cut()
                # It must not take anything more.
                with pytest.raises(redis.exceptions.RedisError):
                    client.set("taken", taken + 1)
            disk.boot()


def test_what_a_killed_store_had_not_synced_survives_once_it_was_served(tmp_path: Path) -> None:
    """Its successor reads it, and says to a client that tries again: that is done already."""
    with power_cut_disk(tmp_path) as disk:
        with _store_on(disk, tmp_path) as (_, client):
            client.set("synced", 1)
        # Written by a server that was killed before its sync.
        [file] = (disk.folder / "state" / "appendonlydir").glob("*.incr.aof")
        with file.open("ab") as aof:
            aof.write(b"*3\r\n$3\r\nSET\r\n$4\r\nseen\r\n$1\r\n1\r\n")
        with _store_on(disk, tmp_path) as (_, client):
            assert client.get("seen") == b"1"
            disk.cut()
        disk.boot()
        with _store_on(disk, tmp_path) as (_, client):
            assert client.get("seen") == b"1"


def test_a_policy_is_durable_although_its_first_writer_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the file's new name and its sync; the operation is done again."""
    files = {"adapter_model.safetensors": b"weights"}
    manifest = manifest_of("policy", request_id="a:1")
    with power_cut_disk(tmp_path) as disk:
        folder = disk.folder / "handover"
        Handover(folder, sync=True).put("before", manifest_of("b", request_id="a:0"), files)
        with monkeypatch.context() as patch:
            patch.setattr(handover, "sync_folder", _crash)
            with pytest.raises(Crash):
                Handover(folder, sync=True).put("policy", manifest, files)
        Handover(folder, sync=True).put("policy", manifest, files)
        disk.cut()
        disk.boot()
        handed = Handover(folder).get("policy")
        assert handed is not None
        del handed


@pytest.mark.parametrize("make", ["convert", "widen"])
def test_a_prepared_model_is_whole_or_not_there(
    tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds its folder at the next start asks no more whether it is all there."""
    with power_cut_disk(tmp_path, options=HARSH) as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk.folder))
        source = tmp_path / "model.gguf"
        source.write_bytes(b"some weights")
        prepared = _prepare(make, tmp_path, monkeypatch)
        content = {path.name: path.read_bytes() for path in prepared.iterdir()}
        assert content["model.safetensors"]
        # Whatever else makes the disk write what it knows of names.
        (disk.folder / "other").touch()
        disk.cut()
        disk.boot()
        assert {path.name: path.read_bytes() for path in prepared.iterdir()} == content


def _prepare(make: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torch
    from safetensors.torch import save_file

    from tuft.modeling import prepare, sharing

    weights = {"w": torch.arange(100_000, dtype=torch.bfloat16)}

    def convert(_gguf: Path, target: Path) -> None:
        (target / "config.json").write_text("{}")
        save_file(weights, target / "model.safetensors")

    if make == "convert":
        monkeypatch.setattr(prepare, "_convert", convert)
        return prepare.prepare_model(str(folder / "model.gguf"))
    model = folder / "half"
    model.mkdir()
    convert(model, model)
    return sharing.shared_folder(model, torch.float32, torch.device("cpu"))


@contextmanager
def _store_on(disk: Disk, folder: Path) -> Iterator[tuple[EmbeddedStore, redis.Redis]]:
    """A server with its file there, killed at the end."""
    config = PersistenceConfig.from_file_redis(disk.folder / "state")
    store = EmbeddedStore(config, folder)
    client = connect(store.start())
    try:
        yield store, client
    finally:
        pid = store.pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        store.stop()
        client.close()


def _crash(_folder: Path) -> None:
    raise Crash("killed before the sync")


@pytest.mark.slow
@pytest.mark.parametrize("subject", [Objects, SavedCheckpoints, HandedPolicies])
def test_what_was_acknowledged_survives_many_cuts(
    tmp_path: Path, options: str, subject: Callable[[Path], Subject]
) -> None:
    assert _rounds(tmp_path, subject, options, rounds=100) > 200
