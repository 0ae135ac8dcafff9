"""What the store says while its server is away, hung, full or read-only, and afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.helpers.leases import take_lease
from tests.service.store.records import (
    MODEL,
    RUN,
    TENANT,
    accept,
    checkpoint,
    complete,
    complete_up_to,
    create_run,
    done,
    operation,
    pending,
    sample,
    session,
    tombstone,
)
from tests.service.store.servers import kill, server
from tests.waiting import wait_until
from tuft.contracts.records import SnapshotRecord
from tuft.errors import NotFound, Unavailable
from tuft.store import Store, connect
from tuft.store.connection import Connection


def _calls(store: Store) -> list[Callable[[], object]]:
    """One of each way to the server: command, script, transaction, blocking read."""
    return [
        store.ping,
        lambda: create_run(store),
        lambda: store.checkpoints.list_run(RUN),
        lambda: store.events.results("0-0", 5_000),
        lambda: store.samples.claim(MODEL, "a", 1, 5_000),
    ]


def test_a_killed_server_is_unavailable_and_the_same_store_works_when_it_is_back(
    tmp_path: Path,
) -> None:
    with server(tmp_path, durable=True) as embedded:
        store = Store(connect(embedded.url))
        create_run(store)
        kill(embedded)
        for call in _calls(store):
            begun = time.monotonic()
            with pytest.raises(Unavailable, match="can't be reached"):
                call()
            assert time.monotonic() - begun < 5
        embedded.start()
        store.ping()
        assert create_run(store).duplicate
        assert not accept(store, operation(1)).duplicate
        # Connections of the blocking pool notice by failing once at most.
        wait_until(lambda: _works(lambda: store.events.work(MODEL, "0-0", 5_000)), 5)


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
    except Unavailable:
        return False
    return True


def test_those_who_wait_learn_at_once_that_the_server_died(tmp_path: Path) -> None:
    with server(tmp_path) as embedded, ThreadPoolExecutor(2) as pool:
        store = Store(connect(embedded.url))
        client = connect(embedded.url)
        waiting: list[Future[Any]] = [
            pool.submit(store.events.results, "0-0", 60_000),
            pool.submit(store.samples.claim, MODEL, "a", 1, 60_000),
        ]
        wait_until(lambda: client.info("clients")["blocked_clients"] == 2, 10)
        kill(embedded)
        for call in waiting:
            with pytest.raises(Unavailable):
                call.result(5)


def test_a_url_where_nothing_listens(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/nothing.sock", "redis://127.0.0.1:1/0"):
        with pytest.raises(Unavailable):
            Store(connect(url)).ping()


def test_a_blocking_read_may_last_longer_than_the_time_out_of_other_commands(
    valkey_url: str,
) -> None:
    client = connect(valkey_url)
    client.connection_pool.connection_kwargs["socket_timeout"] = 0.1
    store = Store(client)
    assert store.events.results("0-0", 300) == ("0-0", [])
    assert store.samples.claim(MODEL, "a", 1, 300) == []


def test_a_hung_server_is_unavailable_and_late_replies_are_not_mixed_up(tmp_path: Path) -> None:
    with server(tmp_path) as embedded:
        client = connect(embedded.url)
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.3
        store = Store(client)
        store.sessions.create(session("first"))
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable):
            store.sessions.get("first")
        os.kill(embedded.pid, signal.SIGCONT)
        with pytest.raises(NotFound):
            store.sessions.get("second")
        assert store.sessions.get("first") == session("first")


def test_a_full_server_takes_nothing_new_and_can_be_drained(tmp_path: Path) -> None:
    with server(tmp_path) as embedded:
        client = connect(embedded.url)
        store = Store(client)
        create_run(store)
        accept(store, operation(1), b"payload")
        store.samples.accept(sample(1), pending(sample(1).request_id), max_pending=9)
        keys = set(client.keys())
        client.config_set("maxmemory", 1)

        newcomers: list[Callable[[], object]] = [
            lambda: accept(store, operation(2), b"payload"),
            lambda: create_run(store, "session-1:train:1"),
            lambda: store.journal.refuse(tombstone(2), writer_epoch=0),
            lambda: store.samples.accept(sample(2), pending(sample(2).request_id), max_pending=9),
            lambda: store.sessions.create(session()),
            lambda: store.checkpoints.put(checkpoint("a", 1.0)),
        ]
        for newcomer in newcomers:
            with pytest.raises(Unavailable, match="takes no writes"):
                newcomer()
        assert set(client.keys()) == keys
        assert store.runs.status(RUN).next_seq_id == 2
        assert store.runs.list(TENANT, 1, 0)[1] == 1
        assert store.checkpoints.list_run(RUN) == []

        lease = take_lease(store, f"trainer:{MODEL}")
        store.workers.report("t", "trainer", MODEL, "ready")
        assert len(store.workers.statuses()) == 1
        complete_up_to(store, lease, 1)
        store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=1, prefix="p", step=0))
        store.journal.trim(lease, RUN, 1)
        (claimed,) = store.samples.claim(MODEL, "a", 5, 0)
        store.samples.complete(claimed, done(claimed.op), result_ttl_s=60)
        assert store.futures.get(f"{RUN}:1")[1] == b"result"

        client.config_set("maxmemory", 0)
        assert not accept(store, operation(2)).duplicate


def test_a_replica_is_unavailable_for_writes(tmp_path: Path) -> None:
    with server(tmp_path) as embedded:
        client = connect(embedded.url)
        store = Store(client)
        lease = take_lease(store, f"trainer:{MODEL}")
        create_run(store)
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(Unavailable, match="takes no writes"):
            accept(store, operation(1))
        with pytest.raises(Unavailable):
            complete(store, lease, operation(0))
        client.replicaof("NO", "ONE")
        assert not accept(store, operation(1)).duplicate


def test_scripts_come_back_after_the_server_forgot_them(store: Store, valkey_url: str) -> None:
    create_run(store)
    connect(valkey_url).script_flush()
    assert create_run(store).duplicate


def test_mistakes_are_not_called_unavailable(valkey_url: str) -> None:
    connection = Connection(connect(valkey_url))
    with pytest.raises(redis.ResponseError, match="unknown command"):
        connection.call("NONSENSE")
    with pytest.raises(redis.ResponseError):
        connection.write(["SET", "tuft:a", "b"], ["HGET", "tuft:a", "c"])


def test_many_threads_share_one_store(store: Store) -> None:
    create_run(store)

    def look(_: int) -> int:
        store.ping()
        assert store.events.results("0-0", 5) == ("0-0", [])
        return store.runs.status(RUN).next_seq_id

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(look, range(400))) == {1}
