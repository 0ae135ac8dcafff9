"""A store saved to a file and read back is the same store."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.helpers.leases import take_lease
from tests.service.store.records import (
    MODEL,
    RUN,
    accept,
    checkpoint,
    complete,
    complete_up_to,
    create_run,
    done,
    operation,
    pending,
    sample,
    sampler,
    session,
    tombstone,
)
from tests.service.store.servers import server
from tuft.contracts.records import SnapshotRecord
from tuft.errors import ConfigError, InvalidRequest
from tuft.store import Lease, Store, connect
from tuft.store.connection import Connection
from tuft.store_tools import transfer
from tuft.store_tools.transfer import clear_store, export_store, import_store

BINARY = bytes(range(256))


@pytest.fixture
def store(valkey_url: str) -> Store:
    return Store(connect(valkey_url))


@pytest.fixture
def source(valkey_url: str) -> Connection:
    """The same server, as the tools see it."""
    return Connection(connect(valkey_url))


@pytest.fixture
def other(tmp_path: Path) -> Iterator[redis.Redis]:
    """Another server, empty."""
    with server(tmp_path / "other", durable=True) as running:
        yield connect(running.url)


def use(store: Store) -> Lease:
    """Something of everything: in the middle of work, with results kept and samples claimed."""
    store.sessions.create(session())
    store.sessions.finish("session-1", "it's over – ½")
    create_run(store)
    lease = take_lease(store, f"trainer:{MODEL}")
    for seq in range(1, 6):
        accept(store, operation(seq), BINARY + b"%d" % seq)
    store.journal.refuse(tombstone(6), writer_epoch=0)
    accept(store, operation(8), b"{}")
    complete_up_to(store, lease, 3)
    complete(store, lease, operation(4), done(operation(4), BINARY))
    store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=3, prefix="p", step=1))
    store.journal.trim(lease, RUN, 2)
    store.samplers.create(sampler(), "digest")
    for number in range(3):
        op = sample(number)
        store.samples.accept(op, pending(op.request_id), max_pending=9)
    store.samples.claim(MODEL, "one", 1, 0)
    store.samples.reclaim(MODEL, "one")
    store.ledger.begin(RUN, "step ½", writer_epoch=None, first_seq_id=None)
    store.checkpoints.put(checkpoint("a", 1.0625))
    return lease


def test_it_comes_back_as_it_was(
    store: Store, other: redis.Redis, tmp_path: Path, source: Connection, valkey_url: str
) -> None:
    lease = use(store)
    count = export_store(source, tmp_path / "saved")
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o600
    assert import_store(Connection(other), tmp_path / "saved") == count
    assert _everything(other) == _everything(connect(valkey_url))

    # And work goes on where it was.
    there = Store(other)
    assert there.futures.get(f"{RUN}:4")[1] == BINARY
    assert there.journal.next(RUN).payload == BINARY + b"5"
    complete_up_to(there, lease, 5)
    (claimed,) = there.samples.reclaim(MODEL, "one")
    assert (claimed.op, claimed.deliveries) == (sample(0), 3)
    there.samples.complete(claimed, done(claimed.op), result_ttl_s=60)
    assert [c.op for c in there.samples.claim(MODEL, "two", 9, 0)] == [sample(1), sample(2)]
    assert accept(there, operation(5)).duplicate


def test_what_has_expired_meanwhile_does_not_come_back(
    store: Store, other: redis.Redis, tmp_path: Path, source: Connection
) -> None:
    create_run(store)
    lease = take_lease(store, f"trainer:{MODEL}")
    op = store.journal.entries(RUN, -1, 1)[0]
    complete(store, lease, op)  # type: ignore[arg-type]
    begun = time.time()
    export_store(source, tmp_path / "saved")
    lines = _lines(tmp_path / "saved")
    for entry in lines:
        if "expires_at_ms" in entry:
            assert entry["expires_at_ms"] > begun * 1000
            entry["expires_at_ms"] = int(time.time() * 1000) - 1
    _write(tmp_path / "late", lines)
    import_store(Connection(other), tmp_path / "late")
    assert not other.exists(f"tuft:future:{RUN}:0")
    assert other.exists(f"tuft:run:{RUN}")


def test_an_export_that_is_not_whole_is_refused_before_anything_is_written(
    store: Store, other: redis.Redis, tmp_path: Path, source: Connection
) -> None:
    use(store)
    whole = tmp_path / "whole"
    export_store(source, whole)
    data = whole.read_bytes()
    damaged = tmp_path / "damaged"
    flipped = data.replace(b"acme", b"acne", 1)
    for cut in (data[:0], data[:100], data[:-30], data[: data.rindex(b'{"end"')], flipped):
        damaged.write_bytes(cut)
        with pytest.raises(InvalidRequest, match=r"not whole|not an export"):
            import_store(Connection(other), damaged)
    damaged.write_text('{"something": "else"}\n')
    with pytest.raises(InvalidRequest, match="not an export"):
        import_store(Connection(other), damaged)
    assert other.keys() == []
    with pytest.raises(InvalidRequest, match="can't read"):
        import_store(Connection(other), tmp_path / "nothing")


def test_an_export_of_a_newer_tuft_is_refused(
    store: Store, other: redis.Redis, tmp_path: Path, source: Connection, valkey_url: str
) -> None:
    store.ping()
    connect(valkey_url).set("tuft:schema", 9)
    # It can be saved all the same.
    export_store(source, tmp_path / "saved")
    with pytest.raises(InvalidRequest, match="store version 9, this one knows versions up to"):
        import_store(Connection(other), tmp_path / "saved")


def test_an_export_of_an_older_version_is_migrated_when_it_is_used(
    store: Store, other: redis.Redis, tmp_path: Path, source: Connection, valkey_url: str
) -> None:
    use(store)
    connect(valkey_url).delete("tuft:schema")
    export_store(source, tmp_path / "saved")
    import_store(Connection(other), tmp_path / "saved")
    assert not other.exists("tuft:schema")
    Store(other).ping()
    assert other.exists("tuft:schema")


def test_only_an_empty_store_is_filled(
    store: Store, other: redis.Redis, tmp_path: Path, source: Connection
) -> None:
    use(store)
    export_store(source, tmp_path / "saved")
    other.set("somebody:else", "stays")
    Store(other).ping()  # a service that did nothing was here
    import_store(Connection(other), tmp_path / "saved")
    with pytest.raises(InvalidRequest, match=r"not empty.*clear"):
        import_store(Connection(other), tmp_path / "saved")
    assert clear_store(Connection(other)) > 10
    assert other.keys() == [b"somebody:else"]
    import_store(Connection(other), tmp_path / "saved")


def test_an_import_that_did_not_end_is_seen_and_can_be_begun_anew(
    store: Store,
    other: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Connection,
    valkey_url: str,
) -> None:
    use(store)
    export_store(source, tmp_path / "saved")
    restore, left = transfer._restore, iter(range(7))

    def dying(connection: Connection, entry: dict[str, Any]) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        restore(connection, entry)

    monkeypatch.setattr(transfer, "_restore", dying)
    with pytest.raises(KeyboardInterrupt):
        import_store(Connection(other), tmp_path / "saved")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="store import` did not end"):
        Store(other).ping()
    with pytest.raises(InvalidRequest, match="not empty"):
        import_store(Connection(other), tmp_path / "saved")
    clear_store(Connection(other))
    import_store(Connection(other), tmp_path / "saved")
    Store(other).ping()
    assert _everything(other) == _everything(connect(valkey_url))


def test_a_file_is_never_replaced(store: Store, tmp_path: Path, source: Connection) -> None:
    (tmp_path / "saved").write_text("precious")
    with pytest.raises(InvalidRequest, match="exists already"):
        export_store(source, tmp_path / "saved")
    with pytest.raises(InvalidRequest, match="can't write"):
        export_store(source, tmp_path / "no folder" / "saved")
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]


def _everything(client: redis.Redis) -> dict[bytes, object]:
    """All keys as a client sees them."""
    read: dict[Any, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda key: (client.xrange(key), _groups(client, key)),
    }
    return {
        key: (client.type(key), client.pexpiretime(key), read[client.type(key)](key))
        for key in client.scan_iter()
    }


def _groups(client: redis.Redis, key: bytes) -> object:
    return [
        (
            group["name"],
            group["last-delivered-id"],
            [
                (entry["message_id"], entry["consumer"], entry["times_delivered"])
                for entry in client.xpending_range(key, group["name"], "-", "+", 100)
            ],
        )
        for group in client.xinfo_groups(key)
    ]


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _write(file: Path, lines: list[dict[str, Any]]) -> None:
    """As an export of these lines would be."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines[:-1])
    lines[-1]["sha256"] = hashlib.sha256(data).hexdigest()
    file.write_bytes(data + json.dumps(lines[-1]).encode() + b"\n")
