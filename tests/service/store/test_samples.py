"""The sample queue: once each, taken over from the dead, limits, repeats."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from tests.service.store.records import MODEL, done, pending, sample
from tests.waiting import wait_until
from tuft.errors import Conflict, QueueFull
from tuft.store import Accepted, Store, connect, samples


def accept(store: Store, number: int, content: str = "", max_pending: int = 100) -> Accepted:
    op = sample(number, content)
    return store.samples.accept(op, pending(op.request_id), max_pending=max_pending)


def test_an_operation_is_claimed_once_and_completed(store: Store) -> None:
    seen = store.events.latest("results")
    accept(store, 1)
    (claimed,) = store.samples.claim(MODEL, "a", 10, 0)
    assert (claimed.op, claimed.deliveries) == (sample(1), 1)
    assert store.samples.claim(MODEL, "b", 10, 0) == []
    store.samples.complete(claimed, done(claimed.op, b"\x00tokens"), result_ttl_s=60)
    future, body = store.futures.get(claimed.op.request_id)
    assert (future.status, body) == ("done", b"\x00tokens")
    assert store.events.results(seen, 0)[1] == [claimed.op.request_id]
    assert store.samples.reclaim(MODEL, "a") == []


def test_an_operation_that_came_before_any_consumer_is_not_missed(store: Store) -> None:
    accept(store, 1)
    accept(store, 2)
    assert [c.op for c in store.samples.claim(MODEL, "a", 1, 0)] == [sample(1)]
    assert [c.op for c in store.samples.claim(MODEL, "a", 9, 0)] == [sample(2)]


def test_repeats(store: Store) -> None:
    assert not accept(store, 1).duplicate
    assert accept(store, 1).duplicate
    with pytest.raises(Conflict):
        accept(store, 1, "another")
    (claimed,) = store.samples.claim(MODEL, "a", 10, 0)
    store.samples.complete(claimed, done(claimed.op), result_ttl_s=60)
    assert accept(store, 1).duplicate
    assert store.samples.claim(MODEL, "a", 10, 0) == []


def test_a_full_queue_counts_what_waits_and_what_runs(store: Store) -> None:
    accept(store, 1, max_pending=2)
    accept(store, 2, max_pending=2)
    (claimed, _) = store.samples.claim(MODEL, "a", 10, 0)
    with pytest.raises(QueueFull, match="max_pending_samples"):
        accept(store, 3, max_pending=2)
    assert accept(store, 2, max_pending=2).duplicate
    store.samples.complete(claimed, done(claimed.op), result_ttl_s=60)
    assert not accept(store, 3, max_pending=2).duplicate


def test_a_waiting_claim_gets_what_comes(store: Store) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.samples.claim, MODEL, "a", 5, 10_000)
        accept(store, 1)
        assert [c.op for c in waiting.result(5)] == [sample(1)]


def test_consumers_share_the_queue_without_overlap(store: Store) -> None:
    total = 200
    for number in range(total):
        accept(store, number, max_pending=1000)
    done_by: Counter[str] = Counter()
    lock = threading.Lock()

    def work(consumer: str) -> None:
        while claimed := store.samples.claim(MODEL, consumer, 3, 0):
            for one in claimed:
                store.samples.complete(one, done(one.op), result_ttl_s=60)
                with lock:
                    done_by[one.op.request_id] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [f"consumer {number}" for number in range(8)]))
    assert len(done_by) == total
    assert set(done_by.values()) == {1}


def test_a_restarted_consumer_gets_back_what_it_had(store: Store) -> None:
    accept(store, 1)
    accept(store, 2)
    store.samples.claim(MODEL, "a", 1, 0)
    (again,) = store.samples.reclaim(MODEL, "a")
    assert (again.op, again.deliveries) == (sample(1), 2)
    (again,) = store.samples.reclaim(MODEL, "a")
    assert again.deliveries == 3
    assert store.samples.reclaim(MODEL, "a", holding=[again.entry_id]) == []
    store.samples.complete(again, done(again.op), result_ttl_s=60)
    assert store.samples.reclaim(MODEL, "a") == []
    assert [c.op for c in store.samples.claim(MODEL, "a", 5, 0)] == [sample(2)]


def test_what_a_gone_consumer_had_is_taken_over(
    store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(store, 1)
    (lost,) = store.samples.claim(MODEL, "gone", 5, 0)
    assert store.samples.reclaim(MODEL, "heir") == []  # not gone yet
    monkeypatch.setattr(samples, "GONE_S", 1)
    client = connect(valkey_url)
    wait_until(lambda: _silent_for(client, "gone") >= 1, 5)
    (taken,) = store.samples.reclaim(MODEL, "heir")
    assert (taken.op, taken.deliveries) == (sample(1), 2)
    assert store.samples.reclaim(MODEL, "third") == []
    consumers = client.zrange(f"tuft:sample-consumers:{MODEL}", 0, -1)
    assert sorted(consumers) == [b"heir", b"third"]

    # The one thought dead comes back later than its heir: the first result counts.
    store.samples.complete(taken, done(taken.op, b"heir's"), result_ttl_s=60)
    store.samples.complete(lost, done(lost.op, b"late"), result_ttl_s=60)
    assert store.futures.get(sample(1).request_id)[1] == b"heir's"


def test_what_a_consumer_hands_back_is_others_at_once_and_in_order(store: Store) -> None:
    for number in range(4):
        accept(store, number)
    claimed = store.samples.claim(MODEL, "a", 3, 0)
    assert store.samples.release(MODEL, "a", [claimed[0].entry_id], "a") == 2
    assert [c.op for c in store.samples.claim(MODEL, "b", 9, 0)] == [
        sample(1),
        sample(2),
        sample(3),
    ]
    # What it kept is its own, and its successor's if it dies.
    assert [c.op for c in store.samples.reclaim(MODEL, "a")] == [sample(0)]
    store.samples.complete(claimed[0], done(claimed[0].op), result_ttl_s=60)
    assert store.samples.release(MODEL, "a", [], "a") == 0


def test_a_consumer_may_go_on_beside_its_successor(store: Store) -> None:
    accept(store, 1)
    (kept,) = store.samples.claim(MODEL, "a", 1, 0)
    assert store.samples.release(MODEL, "a", [kept.entry_id], "a/old") == 0
    assert store.samples.reclaim(MODEL, "a") == []
    store.samples.complete(kept, done(kept.op, b"old"), result_ttl_s=60)
    assert store.futures.get(kept.op.request_id)[1] == b"old"


def test_handing_back_wakes_one_that_waits(store: Store) -> None:
    accept(store, 1)
    store.samples.claim(MODEL, "a", 5, 0)
    store.samples.claim(MODEL, "b", 5, 1)  # it has seen the wake-up of the acceptance
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.samples.claim, MODEL, "b", 5, 10_000)
        assert store.samples.release(MODEL, "a", [], "a") == 1
        assert [c.op for c in waiting.result(5)] == [sample(1)]


def test_deaths_are_remembered_over_a_hand_back(store: Store) -> None:
    """Else an operation that kills samplers would be fresh after each graceful stop."""
    accept(store, 1)
    store.samples.claim(MODEL, "a", 5, 0)
    (second,) = store.samples.reclaim(MODEL, "a")
    assert second.deliveries == 2
    assert store.samples.release(MODEL, "a", [], "a") == 1
    (again,) = store.samples.reclaim(MODEL, "b")
    assert (again.op, again.deliveries) == (sample(1), 2)
    # One that no sampler died with begins anew.
    accept(store, 2)
    store.samples.claim(MODEL, "a", 5, 0)
    store.samples.release(MODEL, "a", [], "a")
    assert [c.deliveries for c in store.samples.claim(MODEL, "b", 5, 0)] == [1]


def _silent_for(client: Redis, consumer: str) -> float:
    last = client.zscore(f"tuft:sample-consumers:{MODEL}", consumer)
    seconds, _ = client.time()
    return float(seconds) - float(last or 0)


def test_a_claim_of_nothing_is_a_sign_of_life(
    store: Store, monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    accept(store, 1)
    store.samples.claim(MODEL, "busy", 5, 0)
    monkeypatch.setattr(samples, "GONE_S", 1)
    wait_until(lambda: _silent_for(connect(valkey_url), "busy") >= 1, 5)
    assert store.samples.claim(MODEL, "busy", 0, 10_000) == []
    assert store.samples.reclaim(MODEL, "heir") == []


def test_nothing_is_left_of_what_is_done(store: Store, valkey_url: str) -> None:
    for number in range(20):
        accept(store, number)
    for one in store.samples.claim(MODEL, "a", 100, 0):
        store.samples.complete(one, done(one.op), result_ttl_s=0.001)
    client = connect(valkey_url)
    assert client.xlen(f"tuft:samples:{MODEL}") == 0
    assert client.xpending(f"tuft:samples:{MODEL}", samples.GROUP)["pending"] == 0
    wait_until(lambda: not client.keys("tuft:future:*"), 5)


def test_a_new_server_has_no_group_yet(store: Store, valkey_url: str) -> None:
    store.samples.claim(MODEL, "a", 5, 0)
    connect(valkey_url).flushall()
    accept(store, 1)
    assert [c.op for c in store.samples.claim(MODEL, "a", 5, 0)] == [sample(1)]
    connect(valkey_url).flushall()
    assert store.samples.reclaim(MODEL, "a") == []


def test_tenants_take_turns(store: Store) -> None:
    """One that has queued much does not hold up another; each one's own order stays."""

    def queue(tenant: str, *numbers: int) -> None:
        for number in numbers:
            op = sample(number).model_copy(update={"tenant": tenant})
            store.samples.accept(op, pending(op.request_id), max_pending=100)

    def taken(count: int) -> list[str]:
        return [c.op.request_id for c in store.samples.claim(MODEL, "a", count, 0)]

    ids = {number: sample(number).request_id for number in range(40)}
    queue("heavy", *range(20))
    assert taken(2) == [ids[0], ids[1]]
    queue("light", 30)
    queue("other", 31, 32, 33)
    assert taken(3) == [ids[2], ids[30], ids[31]]
    queue("light", 34)
    assert taken(4) == [ids[3], ids[32], ids[34], ids[4]]
    assert taken(100) == [ids[33], *(ids[number] for number in range(5, 20))]
    assert taken(100) == []
    with pytest.raises(QueueFull):
        store.samples.accept(sample(39), pending(sample(39).request_id), max_pending=25)
