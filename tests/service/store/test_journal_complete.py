"""Completing, passing, snapshots and trimming: fenced, in order, all or nothing, repeatable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.leases import take_lease
from tests.service.store.records import (
    MODEL,
    RUN,
    accept,
    checkpoint,
    complete,
    complete_up_to,
    done,
    failed,
    operation,
    optim_step,
    sampler,
    tombstone,
)
from tests.waiting import wait_until
from tuft.contracts.records import SnapshotRecord
from tuft.errors import Expired, LeaseLost, NotFound
from tuft.store import Effect, Lease, Store, connect


@pytest.fixture
def ready(store: Store, lease: Lease) -> Lease:
    """The creation is done, operations 1 to 3 are pending."""
    complete_up_to(store, lease, 0)
    for seq in (1, 2, 3):
        accept(store, operation(seq), f"payload {seq}".encode())
    return lease


def test_completion_gives_the_result_and_moves_the_cursor(store: Store, ready: Lease) -> None:
    seen = store.events.latest("results")
    complete(store, ready, operation(1), done(operation(1), b"\x00\xffbody"))
    future, body = store.futures.get(f"{RUN}:1")
    assert (future.status, body) == ("done", b"\x00\xffbody")
    assert store.runs.status(RUN).cursor == 1
    assert store.events.results(seen, 0)[1] == [f"{RUN}:1"]
    # What was done stays in the journal until a snapshot covers it.
    assert store.journal.payload(operation(1)) == b"payload 1"
    assert store.journal.entries(RUN, 0, 1) == [operation(1)]


def test_a_body_in_the_object_store(store: Store, ready: Lease) -> None:
    outcome = done(operation(1), None)
    record = outcome.future.model_copy(update={"body_object": "results/x", "content": "proto"})
    store.journal.complete(ready, operation(1), type(outcome)(record, None), result_ttl_s=60)
    assert store.futures.get(f"{RUN}:1") == (record, None)


def test_repeating_a_completion_changes_nothing(store: Store, ready: Lease) -> None:
    complete(store, ready, operation(1), done(operation(1), b"first"))
    seen = store.events.latest("results")
    complete(store, ready, operation(1), done(operation(1), b"second"))
    assert store.futures.get(f"{RUN}:1")[1] == b"first"
    assert store.events.latest("results") == seen
    assert store.runs.status(RUN).cursor == 1


def test_operations_complete_in_order_only(store: Store, ready: Lease) -> None:
    with pytest.raises(LeaseLost, match="does not follow the cursor"):
        complete(store, ready, operation(2))
    complete(store, ready, operation(1))
    complete(store, ready, operation(2))
    with pytest.raises(LeaseLost):
        complete(store, ready, operation(1))
    assert store.futures.get(f"{RUN}:3")[0].status == "pending"


def test_a_lost_lease_changes_nothing(store: Store, ready: Lease) -> None:
    newer = take_lease(store, ready.group)
    snapshot = SnapshotRecord(seq_id=0, prefix="p", step=0)
    store.journal.refuse(tombstone(4), writer_epoch=0)
    effects = store.samplers.creation_effects(sampler())
    with pytest.raises(LeaseLost):
        store.journal.complete(ready, operation(1), done(operation(1)), effects, result_ttl_s=60)
    with pytest.raises(LeaseLost):
        store.journal.pass_tombstone(ready, RUN, 1)
    with pytest.raises(LeaseLost):
        store.journal.set_snapshot(ready, RUN, snapshot)
    with pytest.raises(LeaseLost):
        store.journal.trim(ready, RUN, 0)
    assert store.runs.status(RUN).cursor == 0
    assert store.runs.status(RUN).snapshot is None
    assert store.futures.get(f"{RUN}:1")[0].status == "pending"
    with pytest.raises(NotFound):
        store.samplers.get(sampler().sampler_id)
    complete(store, newer, operation(1))


def test_what_the_earlier_lease_did_is_not_done_again(store: Store, ready: Lease) -> None:
    complete(store, ready, operation(1), done(operation(1), b"given out"))
    newer = take_lease(store, ready.group)
    with pytest.raises(LeaseLost):
        complete(store, newer, operation(1), done(operation(1), b"another"))
    assert store.futures.get(f"{RUN}:1")[1] == b"given out"


def test_one_of_many_racing_workers_completes(store: Store, ready: Lease) -> None:
    def attempt(number: int) -> str | None:
        mine = take_lease(store, ready.group)
        try:
            complete(store, mine, operation(1), done(operation(1), f"{number}".encode()))
        except LeaseLost:
            return None
        return f"{number}"

    with ThreadPoolExecutor(8) as pool:
        winners = [answer for answer in pool.map(attempt, range(32)) if answer is not None]
    assert len(winners) <= 1
    future, body = store.futures.get(f"{RUN}:1")
    assert (future.status, body) == (
        ("done", winners[0].encode()) if winners else ("pending", None)
    )


def test_effects_happen_with_the_completion(store: Store, ready: Lease) -> None:
    record = checkpoint("step-1", 77.125)
    effects = [*store.samplers.creation_effects(sampler()), *store.checkpoints.effects(record)]
    store.journal.complete(ready, operation(1), done(operation(1)), effects, result_ttl_s=60)
    assert store.samplers.get(sampler().sampler_id) == sampler()
    assert store.sessions.sampler_ids("session-1") == [sampler().sampler_id]
    assert store.checkpoints.get(RUN, "weights", "step-1") == record
    assert store.checkpoints.list_run(RUN) == [record]


def test_an_impossible_effect_leaves_nothing_behind(
    store: Store, ready: Lease, valkey_url: str
) -> None:
    connect(valkey_url).set("tuft:in-the-way", "a string")
    effects: list[Effect] = [
        *store.samplers.creation_effects(sampler()),
        ["ZADD", "tuft:in-the-way", 1, "member"],
    ]
    with pytest.raises(ValueError, match="of type string"):
        store.journal.complete(ready, operation(1), done(operation(1)), effects, result_ttl_s=60)
    assert store.runs.status(RUN).cursor == 0
    assert store.futures.get(f"{RUN}:1")[0].status == "pending"
    with pytest.raises(NotFound):
        store.samplers.get(sampler().sampler_id)


@pytest.mark.parametrize(
    "effect",
    [
        ["FLUSHALL"],
        ["FLUSHALL", "tuft:x", "y"],
        ["SET", "tuft:x"],
        ["HSET", "tuft:x", "field"],
        ["ZADD", "tuft:x", 1, "a", 2],
        ["SET", "someone-elses:key", "value"],
    ],
)
def test_other_commands_are_no_effects(store: Store, ready: Lease, effect: Effect) -> None:
    with pytest.raises(ValueError, match="not an effect"):
        store.journal.complete(ready, operation(1), done(operation(1)), [effect], result_ttl_s=60)
    assert store.runs.status(RUN).cursor == 0


def test_failures_are_kept_for_the_replay(store: Store, ready: Lease) -> None:
    complete(store, ready, operation(1), failed(operation(1), "row 0: loss is NaN"))
    complete(store, ready, operation(2))
    assert store.journal.failure(RUN, 1) == "row 0: loss is NaN"
    assert store.journal.failure(RUN, 2) is None
    future, body = store.futures.get(f"{RUN}:1")
    assert (future.status, future.error, future.category, body) == (
        "failed",
        "row 0: loss is NaN",
        "user",
        None,
    )


def test_the_cursor_passes_tombstones(store: Store, lease: Lease) -> None:
    complete_up_to(store, lease, 0)
    store.journal.refuse(tombstone(1), writer_epoch=0)
    accept(store, optim_step(2))
    with pytest.raises(ValueError, match="no operation to complete"):
        complete(store, lease, operation(1))
    with pytest.raises(LeaseLost):
        store.journal.pass_tombstone(lease, RUN, 2)
    store.journal.pass_tombstone(lease, RUN, 1)
    store.journal.pass_tombstone(lease, RUN, 1)
    with pytest.raises(ValueError, match="no tombstone to pass"):
        store.journal.pass_tombstone(lease, RUN, 2)
    complete(store, lease, optim_step(2))
    assert store.runs.status(RUN).cursor == 2


def test_results_expire_with_their_bodies(store: Store, ready: Lease, valkey_url: str) -> None:
    store.journal.complete(ready, operation(1), done(operation(1), b"x" * 1000), result_ttl_s=0.05)

    def is_gone() -> bool:
        try:
            store.futures.get(f"{RUN}:1")
        except Expired:
            return True
        return False

    wait_until(is_gone, 5)
    client = connect(valkey_url)
    assert client.keys(f"tuft:future:{RUN}:1") == []
    assert client.keys(f"tuft:future:{RUN}:2") != []  # a pending one stays
    assert client.ttl(f"tuft:future:{RUN}:2") == -1
    assert accept(store, operation(1)).duplicate  # the journal still knows it


def test_only_what_a_snapshot_covers_can_be_trimmed(store: Store, ready: Lease) -> None:
    with pytest.raises(ValueError, match="no snapshot covers"):
        store.journal.trim(ready, RUN, 0)
    for seq in (1, 2):
        complete(store, ready, operation(seq))
    with pytest.raises(ValueError, match="ahead of cursor 2"):
        store.journal.set_snapshot(ready, RUN, SnapshotRecord(seq_id=3, prefix="p", step=0))
    older = SnapshotRecord(seq_id=1, prefix="older", step=0)
    newer = SnapshotRecord(seq_id=2, prefix="newer", step=1)
    store.journal.set_snapshot(ready, RUN, newer)
    store.journal.set_snapshot(ready, RUN, older)
    assert store.runs.status(RUN).snapshot == newer
    with pytest.raises(ValueError, match="only entries up to 2"):
        store.journal.trim(ready, RUN, 3)
    assert store.journal.trim(ready, RUN, 1) == []
    assert store.journal.entries(RUN, 1, 10) == [operation(2), operation(3)]
    assert store.journal.payload(operation(1)) is None
    assert store.journal.payload(operation(2)) == b"payload 2"


def test_trimming_tells_the_payload_objects_that_nobody_needs_now(
    store: Store, lease: Lease
) -> None:
    names = [f"payloads/{seq}" for seq in range(1, 1201)]
    for seq, name in enumerate(names, 1):
        op = operation(seq, payload_object=name)
        accept(store, op)
    complete_up_to(store, lease, 1100)
    store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=1100, prefix="p", step=1))
    assert store.journal.trim(lease, RUN, 1100) == names[:1100]
    assert store.journal.trim(lease, RUN, 1100) == []
    assert len(store.journal.entries(RUN, 1100, 1000)) == 100


def test_trimming_forgets_failures(store: Store, ready: Lease) -> None:
    complete(store, ready, operation(1), failed(operation(1), "why"))
    store.journal.set_snapshot(ready, RUN, SnapshotRecord(seq_id=1, prefix="p", step=0))
    store.journal.trim(ready, RUN, 1)
    assert store.journal.failure(RUN, 1) is None


def test_nothing_of_a_trimmed_and_expired_run_piles_up(
    store: Store, lease: Lease, valkey_url: str
) -> None:
    client = connect(valkey_url)

    def churn(start: int) -> int:
        for seq in range(start, start + 50):
            accept(store, operation(seq), b"payload")
        cursor = store.runs.status(RUN).cursor
        for entry in store.journal.entries(RUN, cursor, 100):
            op = operation(entry.seq_id)
            store.journal.complete(lease, op, done(op), result_ttl_s=0.001)
        last = start + 49
        store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=last, prefix="p", step=1))
        store.journal.trim(lease, RUN, last)
        wait_until(lambda: not client.keys("tuft:future:*"), 5)
        return len(client.keys("tuft:*"))

    assert churn(1) == churn(51) == churn(101)


def test_an_outcome_of_another_operation_is_a_mistake_of_the_caller(
    store: Store, ready: Lease
) -> None:
    with pytest.raises(ValueError, match="not an outcome"):
        complete(store, ready, operation(1), done(operation(2)))
    unfinished = type(done(operation(1)))(store.futures.get(f"{RUN}:1")[0], None)
    with pytest.raises(ValueError, match="not an outcome"):
        complete(store, ready, operation(1), unfinished)


def test_unknown_runs(store: Store) -> None:
    lease = take_lease(store, f"trainer:{MODEL}")
    op = operation(1, run_id="nobody:train:0")
    with pytest.raises(NotFound):
        complete(store, lease, op)
    with pytest.raises(NotFound):
        store.journal.trim(lease, op.run_id, 3)
