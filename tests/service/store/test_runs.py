"""Training runs: creation, lists, limits, restoring."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.store.records import MODEL, RUN, TENANT, create_run, operation, pending, run
from tuft.contracts.operations import CreateModel
from tuft.errors import Conflict, InvalidRequest, NotFound
from tuft.store import RunStatus, Store


def test_creation_writes_everything(store: Store) -> None:
    accepted = create_run(store)
    assert (accepted.request_id, accepted.duplicate) == (f"{RUN}:0", False)
    assert store.runs.get(RUN) == run()
    assert store.runs.status(RUN) == RunStatus(
        cursor=-1, next_seq_id=1, writer_epoch=0, snapshot=None, last_request_at=1000.25
    )
    expected = operation(0, body=CreateModel(lora=run().lora))
    assert store.journal.entries(RUN, -1, 10) == [expected]
    assert store.futures.get(f"{RUN}:0")[0].status == "pending"
    assert store.runs.pending_run_ids(MODEL) == [RUN]
    assert store.sessions.run_ids("session-1") == [RUN]
    assert store.events.work(MODEL, "0-0", 0)[1] == [RUN]


def test_creation_may_be_repeated_but_not_with_another_request(store: Store) -> None:
    create_run(store, max_runs=1)
    assert create_run(store, max_runs=1).duplicate
    with pytest.raises(Conflict, match=RUN):
        create_run(store, digest="another")
    assert store.runs.list(TENANT, 10, 0)[1] == 1


def test_many_threads_create_a_run_once_and_stay_within_the_limit(store: Store) -> None:
    def create(number: int) -> str:
        try:
            accepted = create_run(store, f"session-1:train:{number % 16}", max_runs=10)
        except InvalidRequest:
            return "too many"
        return "again" if accepted.duplicate else "new"

    with ThreadPoolExecutor(16) as pool:
        said = Counter(pool.map(create, range(64)))
    assert said["new"] == 10
    assert said["again"] == 30
    assert len(store.runs.pending_run_ids(MODEL)) == 10


def test_lists_are_newest_first_and_paged(store: Store) -> None:
    for number in range(5):
        record = run(f"session-1:train:{number}", created_at=100.0 + number)
        op = operation(0, run_id=record.run_id, body=CreateModel(lora=record.lora))
        store.runs.create(record, op, pending(op.request_id), max_runs=10)
    store.runs.restore(run("session-2:train:0", tenant="other"))
    page, total = store.runs.list(TENANT, 2, 1)
    assert [record.run_id for record in page] == ["session-1:train:3", "session-1:train:2"]
    assert total == 5
    assert store.runs.list(TENANT, 2, 9) == ([], 5)
    assert store.runs.list(TENANT, 0, 0) == ([], 5)
    assert store.runs.list("nobody", 10, 0) == ([], 0)


def test_unknown_runs(store: Store) -> None:
    for ask in (store.runs.get, store.runs.status, store.runs.attach):
        with pytest.raises(NotFound, match="no training run nobody"):
            ask("nobody")
    assert store.runs.pending_run_ids("no model") == []


def test_restoring_indexes_a_run_that_cannot_be_trained(store: Store) -> None:
    store.runs.restore(run())
    store.runs.restore(run())
    assert store.runs.get(RUN) == run(live=False)
    assert store.runs.list(TENANT, 10, 0) == ([run(live=False)], 1)
    assert store.runs.pending_run_ids(MODEL) == []
    with pytest.raises(InvalidRequest, match="checkpoints are left"):
        store.runs.attach(RUN)
    with pytest.raises(Conflict):
        create_run(store)


def test_restoring_leaves_a_live_run_as_it_is(store: Store) -> None:
    create_run(store)
    store.runs.restore(run(base_model="changed"))
    assert store.runs.get(RUN) == run()
    assert store.runs.attach(RUN).writer_epoch == 1


def test_a_run_begins_with_its_own_operation_0(store: Store) -> None:
    op = operation(1)
    with pytest.raises(ValueError, match="operation 0"):
        store.runs.create(run(), op, pending(op.request_id), max_runs=1)
