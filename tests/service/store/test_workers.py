"""Workers: leases, states, model descriptions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.store.records import MODEL
from tests.waiting import wait_until
from tuft.contracts.records import ModelInfo
from tuft.errors import LeaseLost
from tuft.store import Store, WorkerStatus, connect

INFO = ModelInfo(
    model_name=MODEL,
    architecture="Qwen3ForCausalLM",
    tokenizer_id=MODEL,
    vocab_size=512,
    max_model_len=256,
    num_parameters=10**9,
    eos_token_ids=[2],
    attn_modules=16,
    mlp_modules=12,
    unembed_modules=1,
)


def test_only_the_newest_lease_is_valid(store: Store) -> None:
    first = store.workers.acquire("trainer:m")
    other = store.workers.acquire("trainer:n")
    store.workers.check(first)
    second = store.workers.acquire("trainer:m")
    with pytest.raises(LeaseLost, match="trainer:m"):
        store.workers.check(first)
    store.workers.check(second)
    store.workers.check(other)


def test_every_lease_has_an_epoch_of_its_own(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        epochs = [lease.epoch for lease in pool.map(store.workers.acquire, ["g"] * 64)]
    assert len(set(epochs)) == 64


def test_a_lease_does_not_outlive_the_stores_memory(store: Store, valkey_url: str) -> None:
    before = store.workers.acquire("g")
    connect(valkey_url).flushall()
    with pytest.raises(LeaseLost):
        store.workers.check(before)
    after = store.workers.acquire("g")
    assert after.epoch > before.epoch
    with pytest.raises(LeaseLost):
        store.workers.check(before)


def test_a_clock_that_was_set_back_does_not_matter(store: Store, valkey_url: str) -> None:
    store.workers.acquire("g")
    in_a_century = 5_000_000_000_000_000
    connect(valkey_url).set("tuft:lease:g", in_a_century)
    assert store.workers.acquire("g").epoch == in_a_century + 1


def test_statuses_end_when_workers_fall_silent(store: Store, valkey_url: str) -> None:
    store.workers.report("t-1", "trainer", MODEL, "loading")
    store.workers.report("s-1", "sampler", MODEL, "ready", ttl_s=0.05)
    store.workers.report("t-1", "trainer", MODEL, "ready")
    trainer = WorkerStatus("t-1", "trainer", MODEL, "ready")
    wait_until(lambda: store.workers.statuses() == [trainer], 5)
    assert connect(valkey_url).smembers("tuft:workers") == {b"t-1"}
    store.workers.report("s-1", "sampler", MODEL, "ready")
    assert store.workers.statuses() == [WorkerStatus("s-1", "sampler", MODEL, "ready"), trainer]


def test_model_descriptions(store: Store) -> None:
    assert store.workers.model_info(MODEL) is None
    store.workers.set_model_info(INFO)
    assert store.workers.model_info(MODEL) == INFO
