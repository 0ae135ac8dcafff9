"""Workers: leases, states, model descriptions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.leases import take_lease
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
    first = take_lease(store, "trainer:m")
    other = take_lease(store, "trainer:n")
    store.workers.check(first)
    second = take_lease(store, "trainer:m")
    for old in (store.workers.check, lambda lease: store.workers.renew(lease, "me", 60)):
        with pytest.raises(LeaseLost, match="trainer:m"):
            old(first)
    store.workers.check(second)
    store.workers.check(other)


def test_a_lease_is_kept_by_renewing_it(store: Store) -> None:
    mine = store.workers.acquire("g", "me", 0.3)
    assert mine is not None
    begun = time.monotonic()
    while time.monotonic() - begun < 0.6:
        store.workers.renew(mine, "me", 0.3)
        assert store.workers.acquire("g", "other", 60) is None
    wait_until(lambda: store.workers.acquire("g", "other", 60), 5, "it is over")
    with pytest.raises(LeaseLost):
        store.workers.renew(mine, "me", 60)


def test_a_lease_that_nobody_took_goes_on(store: Store, valkey_url: str) -> None:
    mine = store.workers.acquire("g", "me", 0.001)
    assert mine is not None
    wait_until(lambda: not connect(valkey_url).exists("tuft:lease-holder:g"), 5)
    store.workers.renew(mine, "me", 60)
    store.workers.check(mine)
    assert store.workers.acquire("g", "other", 60) is None


def test_a_lease_is_taken_at_once_from_one_that_ended_or_released_it(store: Store) -> None:
    first = store.workers.acquire("g", "a", 60)
    assert first is not None
    assert store.workers.acquire("g", "b", 60, replaces="somebody else") is None
    second = store.workers.acquire("g", "b", 60, replaces="a")
    assert second is not None
    assert second.epoch > first.epoch
    # A lease that is over releases nothing.
    store.workers.release(first, "a")
    assert store.workers.acquire("g", "c", 60) is None
    store.workers.release(second, "b")
    # Until somebody takes it, its owner may still write.
    store.workers.check(second)
    assert store.workers.acquire("g", "c", 60) is not None


def test_every_lease_has_an_epoch_of_its_own(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: take_lease(store, "g"), range(64)))
    assert len({lease.epoch for lease in leases}) == 64


def test_a_request_that_arrives_late_ends_nothing(store: Store) -> None:
    """It was sent before a network lost packets, and granted to the same holder meanwhile."""
    lease = store.workers.acquire("trainer:m", "me", 60)
    assert lease is not None
    assert store.workers.acquire("trainer:m", "me", 60) == lease
    store.workers.renew(lease, "me", 60)


def test_of_many_that_want_a_lease_one_gets_it(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda n: store.workers.acquire("g", f"h{n}", 60), range(64)))
    assert sum(lease is not None for lease in leases) == 1


def test_a_lease_does_not_outlive_the_stores_memory(store: Store, valkey_url: str) -> None:
    before = take_lease(store, "g")
    connect(valkey_url).flushall()
    with pytest.raises(LeaseLost):
        store.workers.check(before)
    with pytest.raises(LeaseLost):
        store.workers.renew(before, "me", 60)
    after = take_lease(store, "g")
    assert after.epoch > before.epoch
    with pytest.raises(LeaseLost):
        store.workers.check(before)


def test_a_clock_that_was_set_back_does_not_matter(store: Store, valkey_url: str) -> None:
    take_lease(store, "g")
    in_a_century = 5_000_000_000_000_000
    connect(valkey_url).set("tuft:lease:g", in_a_century)
    assert take_lease(store, "g").epoch == in_a_century + 1


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
