"""The ledger: a step begins once, its first plan and its first result stay."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.store.records import RUN, create_run
from tuft.contracts.records import LedgerAttempt, LedgerEntry
from tuft.errors import NotFound, StaleWriter
from tuft.store import Store, ledger

ACME = "tenant:acme"


def begin(store: Store, scope: str = ACME, step_key: str = "step", epoch: int = 0) -> LedgerEntry:
    return store.ledger.begin(scope, step_key, writer_epoch=epoch, first_seq_id=None)


def test_the_life_of_a_step(store: Store) -> None:
    before = time.time()
    assert store.ledger.get(ACME, "step") is None
    begun = store.ledger.begin(ACME, "step", writer_epoch=None, first_seq_id=4)
    assert begun == LedgerEntry(
        step_key="step", state="started", first_seq_id=4, started_at=begun.started_at
    )
    assert before <= begun.started_at <= time.time()
    planned = store.ledger.record_plan(ACME, "step", "ledger/plan", 6)
    update = {"plan_object": "ledger/plan", "first_seq_id": 6}
    assert planned == begun.model_copy(update=update)
    finished = store.ledger.finish(ACME, "step", '{"größe": 1}')
    assert (finished.state, finished.result) == ("finished", '{"größe": 1}')
    assert finished.finished_at is not None
    assert begin(store) == store.ledger.get(ACME, "step") == finished
    # Nobody needs the plan any more.
    assert finished.plan_object is None
    assert [thing.key for thing in store.disposal.due(time.time(), 9)] == ["ledger/plan"]


def test_what_is_recorded_first_stays(store: Store) -> None:
    begin(store)
    store.ledger.record_plan(ACME, "step", "first", 1)
    assert store.ledger.record_plan(ACME, "step", "second", 2).plan_object == "first"
    first = store.ledger.finish(ACME, "step", "first")
    assert store.ledger.finish(ACME, "step", "second") == first
    begin(store, step_key="other")
    store.ledger.finish(ACME, "other", "no plan")
    assert store.ledger.record_plan(ACME, "other", "late", 2).plan_object is None


def test_attempts_are_recorded_once_and_in_order(store: Store) -> None:
    first, second = (LedgerAttempt(first_operation=n, first_seq_id=10 * n) for n in (1, 2))
    begin(store)
    assert store.ledger.record_attempt(ACME, "step", 1, first).attempts == []  # there is no plan
    store.ledger.record_plan(ACME, "step", "plan", 4)
    assert store.ledger.record_attempt(ACME, "step", 2, second).attempts == []
    assert store.ledger.record_attempt(ACME, "step", 1, first).attempts == [first]
    assert store.ledger.record_attempt(ACME, "step", 1, second).attempts == [first]
    entry = store.ledger.record_attempt(ACME, "step", 2, second)
    assert (entry.first_seq_id, entry.attempts) == (4, [first, second])
    finished = store.ledger.finish(ACME, "step", "r")
    assert finished.attempts == []
    assert store.ledger.record_attempt(ACME, "step", 1, first) == finished


def test_a_step_knows_from_where_on_another_one_took_its_place(store: Store) -> None:
    def plan(step_key: str, seq_id: int) -> None:
        store.ledger.record_plan(RUN, step_key, step_key, seq_id, writer_epoch=0)

    def overtaken(step_key: str) -> int | None:
        entry = store.ledger.get(RUN, step_key)
        assert entry is not None
        return entry.overtaken_at

    create_run(store)
    for step_key in ("a", "b", "c"):
        begin(store, RUN, step_key)
    plan("a", 1)
    plan("a", 2)
    assert overtaken("a") is None  # it is alone
    plan("b", 3)
    plan("c", 5)
    assert (overtaken("a"), overtaken("b"), overtaken("c")) == (3, 5, None)
    again = LedgerAttempt(first_operation=0, first_seq_id=7)
    store.ledger.record_attempt(RUN, "a", 1, again, writer_epoch=0)
    assert (overtaken("a"), overtaken("b"), overtaken("c")) == (None, 5, 7)
    store.ledger.finish(RUN, "a", "r", writer_epoch=0)
    begin(store, RUN, "d")
    plan("d", 9)
    assert overtaken("a") is None


def test_many_threads_begin_and_finish_a_step_once(store: Store) -> None:
    def execute(number: int) -> tuple[float, str | None]:
        entry = store.ledger.begin(ACME, "step", writer_epoch=None, first_seq_id=number)
        return entry.started_at, store.ledger.finish(ACME, "step", f"{number}").result

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(execute, range(64)))) == 1


def test_a_runs_scope_is_fenced_by_its_writer_epoch(store: Store) -> None:
    create_run(store)
    begin(store, RUN, epoch=0)
    store.runs.attach(RUN)
    late_calls: list[Callable[[], LedgerEntry]] = [
        lambda: begin(store, RUN, epoch=0),
        lambda: begin(store, RUN, "new", epoch=2),
        lambda: store.ledger.begin(RUN, "new", writer_epoch=None, first_seq_id=None),
        lambda: store.ledger.record_plan(RUN, "step", "plan", 1, writer_epoch=0),
        lambda: store.ledger.finish(RUN, "step", "result", writer_epoch=0),
    ]
    for late in late_calls:
        with pytest.raises(StaleWriter, match="the newest is 1"):
            late()
    entry = store.ledger.get(RUN, "step")
    assert entry is not None
    assert (entry.state, entry.writer_epoch, entry.plan_object) == ("started", 0, None)
    assert begin(store, RUN, epoch=1) == entry
    assert store.ledger.finish(RUN, "step", "result", writer_epoch=1).state == "finished"


def test_unknown_runs_and_steps(store: Store) -> None:
    with pytest.raises(NotFound, match="no training run nobody"):
        begin(store, "nobody")
    with pytest.raises(NotFound, match="no training run nobody"):
        store.ledger.finish("nobody", "step", "r")
    with pytest.raises(NotFound, match="was not begun"):
        store.ledger.finish(ACME, "step", "r")
    with pytest.raises(NotFound, match="was not begun"):
        store.ledger.record_plan(ACME, "step", "p", 1)
    assert store.ledger.get(ACME, "step") is None


def test_scopes_are_apart(store: Store) -> None:
    begin(store, "tenant:a", "b:c")
    assert store.ledger.get("tenant:a:b", "c") is None


def test_the_oldest_finished_steps_are_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_ENTRIES", 3)
    for number in range(3):
        begin(store, step_key=f"{number}")
    store.ledger.finish(ACME, "1", "result")
    begin(store, step_key="3")
    kept = [number for number in range(4) if store.ledger.get(ACME, f"{number}") is not None]
    assert kept == [0, 2, 3]
    begin(store, step_key="4")  # none of them is finished
    kept = [number for number in range(5) if store.ledger.get(ACME, f"{number}") is not None]
    assert kept == [2, 3, 4]
