"""Stores that another version of the service wrote."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.service.store.records import (
    MODEL,
    RUN,
    TENANT,
    accept,
    complete,
    complete_up_to,
    create_run,
    operation,
    pending,
    run,
    sample,
    tombstone,
)
from tuft.contracts.operations import CreateModel, Operation
from tuft.contracts.records import ModelInfo, SnapshotRecord
from tuft.errors import ConfigError
from tuft.store import Heartbeat, Lease, Store, connect, schema

UNDONE, REFUSED, IDLE = (f"session-1:train:{number}" for number in (1, 2, 3))


def test_a_new_store_is_of_this_version(store: Store, valkey_url: str) -> None:
    store.ping()
    assert connect(valkey_url).get("tuft:schema") == str(schema.VERSION).encode()


def test_a_store_before_the_first_version_is_migrated_in_place(
    store: Store, lease: Lease, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _use(store, lease)
    client = connect(valkey_url)
    expected = _derived(client)
    _make_version_0(client)
    assert _derived(client) != expected

    # Several processes come at once; each finds it done as a whole.
    barrier = threading.Barrier(8)

    def open_store(_number: int) -> set[str]:
        another = Store(connect(valkey_url))
        barrier.wait()
        return set(another.runs.pending_run_ids(MODEL))

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(open_store, range(8)))
    assert found == [{RUN, UNDONE, REFUSED}] * 8
    assert _derived(client) == expected
    assert caplog.text.count("was of version 0") == 1

    # And it works.
    again = Store(connect(valkey_url))
    complete_up_to(again, lease, 3)
    assert set(again.runs.pending_run_ids(MODEL)) == {UNDONE, REFUSED}
    accept(again, operation(4, accepted_at=9e9))
    assert again.runs.pending_run_ids(MODEL)[0] == RUN


def test_a_newer_store_is_refused_with_a_way_out(store: Store, valkey_url: str) -> None:
    client = connect(valkey_url)
    client.set("tuft:schema", schema.VERSION + 1)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"newer tuft.*tuft store export.*tuft store clear"):
            create_run(store)
    assert client.keys() == [b"tuft:schema"]
    # Once it was cleared, no new process is needed.
    client.delete("tuft:schema")
    create_run(store)


def _use(store: Store, lease: Lease) -> None:
    """A run with operations done and not done, and others; samples that wait and one that runs."""
    numbers = {"vocab_size": 9, "max_model_len": 9, "num_parameters": 9}
    modules = {"attn_modules": 1, "mlp_modules": 1, "unembed_modules": 1}
    named = {"model_name": MODEL, "architecture": "X", "tokenizer_id": "x", "eos_token_ids": [1]}
    store.workers.set_model_info(ModelInfo.model_validate({**named, **numbers, **modules}))
    for seq in range(1, 4):
        accept(store, operation(seq))
    complete_up_to(store, lease, 1)
    store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=1, prefix="p", step=1))
    for run_id in (UNDONE, REFUSED, IDLE):
        create_run(store, run_id)
        if run_id != UNDONE:
            complete(store, lease, _creation(run_id))
    store.journal.refuse(tombstone(1).model_copy(update={"run_id": REFUSED}), writer_epoch=0)
    for number in range(3):
        op = sample(number)
        store.samples.accept(op, pending(op.request_id), max_pending=9)
    store.samples.claim(MODEL, "a sampler", 1, 0)


def _creation(run_id: str) -> Operation:
    return operation(0, run_id=run_id, body=CreateModel(lora=run().lora))


def _derived(client: redis.Redis) -> dict[str, object]:
    """What version 1 has and version 0 had not."""
    runs = [f"tuft:run:{run_id}" for run_id in (RUN, UNDONE, REFUSED, IDLE)]
    return {
        "schema": client.get("tuft:schema"),
        "pending runs": set(client.zrange(f"tuft:pending:{MODEL}", 0, -1)),
        "operations": client.get(f"tuft:tenant-pending:{TENANT}"),
        "samples": client.hgetall(f"tuft:sample-counts:{MODEL}"),
        "fields": [client.hmget(run_key, "index", "covered") for run_key in runs],
    }


def _make_version_0(client: redis.Redis) -> None:
    client.delete(
        "tuft:schema",
        "tuft:kept-results",
        f"tuft:pending:{MODEL}",
        f"tuft:tenant-pending:{TENANT}",
        f"tuft:sample-counts:{MODEL}",
    )
    for run_id in (RUN, UNDONE, REFUSED, IDLE):
        client.hdel(f"tuft:run:{run_id}", "index", "covered")


def test_a_worker_ends_before_it_has_loaded_anything(store: Store, valkey_url: str) -> None:
    connect(valkey_url).set("tuft:schema", schema.VERSION + 1)
    with pytest.raises(ConfigError, match="newer tuft"):
        Heartbeat(store, "a worker", "trainer", MODEL)
