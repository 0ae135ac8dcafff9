"""What is bounded: what tenants have pending, journals behind snapshots, results kept."""

from __future__ import annotations

import pytest

from tests.service.store.records import (
    MODEL,
    RUN,
    accept,
    complete,
    complete_up_to,
    create_run,
    done,
    operation,
    pending,
    sample,
    tombstone,
)
from tuft.contracts.operations import Operation
from tuft.contracts.records import SnapshotRecord
from tuft.errors import Expired, QueueFull
from tuft.store import Accepted, Lease, Store, connect

OTHER = "session-1:train:1"


def _accept(store: Store, op: Operation, **limits: int) -> Accepted:
    future = pending(op.request_id)
    more = {"writer_epoch": 0, "max_pending": 10_000, **limits}
    return store.journal.accept(op, None, future, proves_earlier=False, **more)


def test_a_tenants_operations_are_limited_over_all_its_runs(store: Store, lease: Lease) -> None:
    create_run(store, OTHER)
    _accept(store, operation(1), max_tenant_pending=4)
    _accept(store, operation(3), max_tenant_pending=4)
    with pytest.raises(QueueFull, match=r"acme has 4 operations waiting.*max_tenant_operations"):
        _accept(store, operation(1, run_id=OTHER), max_tenant_pending=4)
    assert _accept(store, operation(1), max_tenant_pending=4).duplicate  # is no new load
    _accept(store, operation(2), max_tenant_pending=4)  # the one that another waits for
    complete_up_to(store, lease, 1)
    with pytest.raises(QueueFull):
        _accept(store, operation(1, run_id=OTHER), max_tenant_pending=3)
    _accept(store, operation(1, run_id=OTHER), max_tenant_pending=4)


def test_nothing_is_left_of_a_tenants_count(store: Store, lease: Lease, valkey_url: str) -> None:
    accept(store, operation(1))
    store.journal.refuse(tombstone(2), writer_epoch=0)
    accept(store, operation(4), proves_earlier=True)
    client = connect(valkey_url)
    assert client.get("tuft:tenant-pending:acme") == b"3"
    complete_up_to(store, lease, 4)
    assert client.keys("tuft:tenant-pending*") == []


def test_a_journal_is_limited_behind_its_snapshot(store: Store, lease: Lease) -> None:
    for seq in (1, 2):
        _accept(store, operation(seq), max_behind_snapshot=3)
    full = r"3 operations behind its last snapshot.*max_journal_operations"
    complete_up_to(store, lease, 2)  # done, but it would have to be done again
    with pytest.raises(QueueFull, match=full):
        _accept(store, operation(3), max_behind_snapshot=3)
    store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=1, prefix="p", step=1))
    for seq in (3, 4):
        _accept(store, operation(seq), max_behind_snapshot=3)
    with pytest.raises(QueueFull, match=full):
        _accept(store, operation(5), max_behind_snapshot=3)


def test_a_tenants_samples_are_limited_waiting_or_running(store: Store, valkey_url: str) -> None:
    def submit(number: int, tenant: str = "acme") -> Accepted:
        op = sample(number).model_copy(update={"tenant": tenant})
        future = pending(op.request_id, tenant)
        return store.samples.accept(op, future, max_pending=9, max_of_tenant=2)

    submit(1)
    (claimed,) = store.samples.claim(MODEL, "a", 1, 0)
    submit(2)
    with pytest.raises(QueueFull, match=r"acme has 2 sample requests.*max_tenant_samples"):
        submit(3)
    assert submit(2).duplicate
    submit(4, "another tenant")
    for _ in range(2):  # the second time changes nothing
        store.samples.complete(claimed, done(claimed.op), result_ttl_s=60)
    submit(3)
    with pytest.raises(QueueFull):
        submit(5)
    for last in store.samples.claim(MODEL, "a", 9, 0):
        store.samples.complete(last, done(last.op), result_ttl_s=60)
    assert connect(valkey_url).keys("tuft:sample-counts:*") == []


def test_the_newest_results_are_kept(store: Store, lease: Lease) -> None:
    complete_up_to(store, lease, 0)
    for seq in range(1, 6):
        accept(store, operation(seq))
    for seq in range(1, 5):
        op = operation(seq)
        store.journal.complete(lease, op, done(op), result_ttl_s=60, max_kept=3)
    for seq in (0, 1):
        with pytest.raises(Expired):
            store.futures.get(f"{RUN}:{seq}")
    assert [store.futures.get(f"{RUN}:{seq}")[0].status for seq in (2, 3, 4, 5)] == (
        ["done"] * 3 + ["pending"]
    )
    # Repeats of what was dropped are repeats still.
    assert accept(store, operation(1)).duplicate

    # Those of samples count, too.
    sampled = sample(1)
    store.samples.accept(sampled, pending(sampled.request_id), max_pending=9)
    (claimed,) = store.samples.claim(MODEL, "a", 1, 0)
    store.samples.complete(claimed, done(sampled), result_ttl_s=60, max_kept=3)
    with pytest.raises(Expired):
        store.futures.get(f"{RUN}:2")
    assert store.futures.get(sampled.request_id)[1] == b"result"


def test_runs_with_something_pending_are_known(store: Store, lease: Lease) -> None:
    assert store.runs.pending_run_ids(MODEL) == [RUN]
    complete_up_to(store, lease, 0)
    assert store.runs.pending_run_ids(MODEL) == []
    create_run(store, OTHER)
    accept(store, operation(2))  # behind a gap, which somebody has to bury
    assert set(store.runs.pending_run_ids(MODEL)) == {OTHER, RUN}
    store.journal.refuse(tombstone(1), writer_epoch=0)
    accept(store, operation(1, run_id=OTHER, accepted_at=2_000_000_000.0))
    assert store.runs.pending_run_ids(MODEL) == [OTHER, RUN]
    complete_up_to(store, lease, 2)
    assert store.runs.pending_run_ids(MODEL) == [OTHER]
    store.journal.refuse(tombstone(3), writer_epoch=0)
    assert set(store.runs.pending_run_ids(MODEL)) == {OTHER, RUN}
    complete_up_to(store, lease, 3)
    for seq in (0, 1):
        complete(store, lease, store.journal.entries(OTHER, seq - 1, 1)[0])  # type: ignore[arg-type]
    assert store.runs.pending_run_ids(MODEL) == []
