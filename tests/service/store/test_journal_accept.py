"""Accepting and refusing: one taker a seq_id, gaps, tombstones, stale writers, limits."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.store.records import (
    MODEL,
    RUN,
    accept,
    complete_up_to,
    create_run,
    operation,
    optim_step,
    run,
    tombstone,
)
from tuft.contracts.operations import ForwardBackward, Operation, Tombstone
from tuft.contracts.records import SnapshotRecord
from tuft.errors import Conflict, InvalidRequest, NotFound, QueueFull, StaleWriter
from tuft.store import Lease, Refused, Store
from tuft.store.journal import WINDOW
from tuft.store.values import NextEntry

pytestmark = pytest.mark.usefixtures("lease")


def test_an_operation_comes_back_as_it_was(store: Store) -> None:
    op = operation(1, payload_object=None)
    assert accept(store, op, b"\x00\xffpayload").request_id == f"{RUN}:1"
    assert store.journal.entries(RUN, 0, 10) == [op]
    assert store.journal.payload(op) == b"\x00\xffpayload"
    assert store.journal.payload(operation(2)) is None
    future, body = store.futures.get(op.request_id)
    assert (future.status, body) == ("pending", None)


def test_an_empty_payload_is_not_no_payload(store: Store) -> None:
    accept(store, operation(1), b"")
    assert store.journal.payload(operation(1)) == b""


def test_a_repeat_gets_the_same_request_id_and_another_content_a_conflict(store: Store) -> None:
    assert not accept(store, operation(1)).duplicate
    again = accept(store, operation(1), b"not written")
    assert again.duplicate
    assert again.request_id == f"{RUN}:1"
    assert store.journal.payload(operation(1)) is None
    with pytest.raises(Conflict, match="seq_id 1"):
        accept(store, operation(1, "something else"))
    assert store.journal.entries(RUN, 0, 10) == [operation(1)]


def test_many_threads_with_the_same_request_make_one_operation(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: accept(store, operation(1)), range(64)))
    assert Counter(answer.duplicate for answer in answers) == {True: 63, False: 1}
    assert {answer.request_id for answer in answers} == {f"{RUN}:1"}
    _, events = store.events.work(MODEL, "0-0", 0)
    assert events == [RUN]


def test_many_threads_with_different_contents_make_one_operation(store: Store) -> None:
    def attempt(number: int) -> str | None:
        try:
            accept(store, operation(1, f"content {number}"), f"{number}".encode())
        except Conflict:
            return None
        return f"{number}"

    with ThreadPoolExecutor(16) as pool:
        winners = [answer for answer in pool.map(attempt, range(64)) if answer is not None]
    assert len(winners) == 1
    assert store.journal.payload(operation(1)) == winners[0].encode()
    assert store.journal.entries(RUN, 0, 10) == [operation(1, f"content {winners[0]}")]


def test_many_threads_with_different_seq_ids_are_all_accepted(store: Store) -> None:
    seqs = list(range(1, 201))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda seq: accept(store, operation(seq)), reversed(seqs)))
    assert not any(answer.duplicate for answer in answers)
    assert [entry.seq_id for entry in store.journal.entries(RUN, 0, 1000)] == seqs
    assert store.runs.status(RUN).next_seq_id == 201
    assert store.journal.next(RUN).gap is None


def test_the_next_entry_is_that_after_the_cursor(store: Store, lease: Lease) -> None:
    complete_up_to(store, lease, 0)
    accept(store, operation(1), b"\x00\xffpayload")
    accept(store, operation(2))
    assert store.journal.next(RUN) == NextEntry(0, 0, operation(1), b"\x00\xffpayload", None)
    complete_up_to(store, lease, 1)
    assert store.journal.next(RUN) == NextEntry(1, 0, operation(2), None, None)
    complete_up_to(store, lease, 2)
    assert store.journal.next(RUN) == NextEntry(2, 0, None, None, None)


def test_entries_end_at_a_gap_and_say_since_when_others_wait(store: Store) -> None:
    for seq in (1, 2, 5, 4):
        accept(store, operation(seq))
    assert [entry.seq_id for entry in store.journal.entries(RUN, 0, 10)] == [1, 2]
    assert store.journal.next(RUN).gap == (3, 1004.25)
    accept(store, operation(3))
    assert [entry.seq_id for entry in store.journal.entries(RUN, 0, 10)] == [1, 2, 3, 4, 5]
    assert [entry.seq_id for entry in store.journal.entries(RUN, 2, 2)] == [3, 4]
    assert store.journal.next(RUN).gap is None


def test_proof_that_nothing_earlier_comes_closes_gaps_with_poison(store: Store) -> None:
    accept(store, operation(2))
    accept(store, operation(5), proves_earlier=True)
    entries = store.journal.entries(RUN, 0, 10)
    assert [type(entry) for entry in entries] == [
        Tombstone,
        Operation,
        Tombstone,
        Tombstone,
        Operation,
    ]
    assert entries[2] == Tombstone(run_id=RUN, seq_id=3, reason="never arrived", poisons=True)
    with pytest.raises(Refused) as refusal:
        accept(store, operation(3))
    assert refusal.value.tombstone == entries[2]


def test_proof_never_buries_what_is_there(store: Store) -> None:
    store.journal.refuse(tombstone(1), writer_epoch=0)
    accept(store, operation(2))
    accept(store, operation(3), proves_earlier=True)
    assert store.journal.entries(RUN, 0, 10) == [tombstone(1), operation(2), operation(3)]


def test_a_refused_seq_id_is_burnt_and_gives_the_first_answer_again(store: Store) -> None:
    store.journal.refuse(tombstone(1, "too long"), writer_epoch=0)
    store.journal.refuse(tombstone(1, "said later"), writer_epoch=0)
    with pytest.raises(Refused, match="too long") as refusal:
        accept(store, operation(1))
    assert refusal.value.tombstone.status == 422
    assert store.runs.status(RUN).next_seq_id == 2


def test_a_refusal_closes_a_gap_and_wakes_the_trainer(store: Store) -> None:
    accept(store, operation(2))
    seen = store.events.latest(f"work:{MODEL}")
    store.journal.refuse(tombstone(1), writer_epoch=0)
    assert store.journal.entries(RUN, 0, 10) == [tombstone(1), operation(2)]
    assert store.journal.next(RUN).gap is None
    assert store.events.work(MODEL, seen, 0)[1] == [RUN]


def test_a_refusal_does_not_touch_an_accepted_or_a_done_operation(
    store: Store, lease: Lease
) -> None:
    accept(store, operation(1))
    accept(store, operation(2))
    complete_up_to(store, lease, 1)
    store.journal.refuse(tombstone(1), writer_epoch=0)
    store.journal.refuse(tombstone(2), writer_epoch=0)
    assert store.journal.entries(RUN, 0, 10) == [operation(1), operation(2)]


def test_a_stale_writer_writes_nothing(store: Store) -> None:
    accept(store, operation(1))
    assert store.runs.attach(RUN).writer_epoch == 1
    with pytest.raises(StaleWriter, match="the newest is 1"):
        accept(store, operation(2), writer_epoch=0)
    with pytest.raises(StaleWriter):
        # Not even to hear of its own earlier operation: it must stop.
        accept(store, operation(1), writer_epoch=0)
    with pytest.raises(StaleWriter):
        store.journal.refuse(tombstone(2), writer_epoch=0)
    with pytest.raises(StaleWriter):
        accept(store, operation(2), writer_epoch=2)
    assert store.runs.status(RUN).next_seq_id == 2
    assert not accept(store, operation(2), writer_epoch=1).duplicate


def test_only_one_of_many_writers_gets_a_seq_id_after_attaching(store: Store) -> None:
    def write(number: int) -> str:
        status = store.runs.attach(RUN)
        try:
            accept(
                store,
                operation(status.next_seq_id, f"writer {number}"),
                writer_epoch=status.writer_epoch,
            )
        except StaleWriter:
            return "stale"
        return "accepted"

    with ThreadPoolExecutor(16) as pool:
        said = Counter(pool.map(write, range(64)))
    assert set(said) <= {"stale", "accepted"}  # never a conflict: nobody interleaves
    assert store.runs.status(RUN).writer_epoch == 64
    assert store.runs.status(RUN).next_seq_id == said["accepted"] + 1


def test_attaching_leaves_a_gap_for_a_retried_step_to_fill(store: Store) -> None:
    accept(store, operation(1))
    accept(store, operation(3))
    status = store.runs.attach(RUN)
    assert (status.writer_epoch, status.next_seq_id) == (1, 4)
    assert accept(store, operation(1), writer_epoch=1).duplicate
    assert not accept(store, operation(2), writer_epoch=1).duplicate
    assert accept(store, operation(3), writer_epoch=1).duplicate


def test_a_full_queue_burns_nothing_and_recovers(store: Store, lease: Lease) -> None:
    accept(store, operation(1), max_pending=3)
    accept(store, operation(2), max_pending=3)  # with the creation, three are pending
    with pytest.raises(QueueFull, match="3 operations waiting"):
        accept(store, operation(3), max_pending=3)
    assert store.runs.status(RUN).next_seq_id == 3
    assert accept(store, operation(2), max_pending=3).duplicate  # a repeat is no new load
    complete_up_to(store, lease, 0)
    assert not accept(store, operation(3), max_pending=3).duplicate


def test_a_tenants_tokens_are_limited_over_all_its_runs(store: Store, lease: Lease) -> None:
    def big(seq_id: int, tokens: int, run_id: str = RUN) -> Operation:
        body = ForwardBackward(forward_only=False, rows=1, tokens=tokens)
        return operation(seq_id, body=body, run_id=run_id)

    create_run(store, "session-1:train:1")
    accept(store, big(1, 5000), max_pending_tokens=100)  # one alone is always taken
    with pytest.raises(QueueFull, match="5000 tokens waiting to be trained"):
        accept(store, big(1, 1, "session-1:train:1"), max_pending_tokens=100)
    accept(store, optim_step(2), max_pending_tokens=100)  # has no tokens
    assert accept(store, big(1, 5000), max_pending_tokens=100).duplicate
    complete_up_to(store, lease, 1)
    accept(store, big(1, 60, "session-1:train:1"), max_pending_tokens=100)
    accept(store, big(4, 40), max_pending_tokens=100)
    with pytest.raises(QueueFull, match="100 tokens"):
        accept(store, big(5, 1), max_pending_tokens=100)
    accept(store, big(3, 1), max_pending_tokens=100)  # the one that others wait for
    complete_up_to(store, lease, 4)
    accept(store, big(5, 40), max_pending_tokens=100)


def test_what_closes_the_first_gap_is_taken_by_a_full_queue(store: Store) -> None:
    accept(store, operation(2), max_pending=3)
    accept(store, operation(4), max_pending=3)
    with pytest.raises(QueueFull):
        accept(store, operation(3), max_pending=3)  # not the first gap
    assert not accept(store, operation(1), max_pending=3).duplicate
    assert not accept(store, operation(3), max_pending=3).duplicate
    with pytest.raises(QueueFull):
        accept(store, operation(5), max_pending=3)


def test_a_seq_id_far_ahead_is_refused_and_bricks_nothing(store: Store) -> None:
    with pytest.raises(InvalidRequest, match="out of range"):
        accept(store, operation(WINDOW), proves_earlier=True)
    store.journal.refuse(tombstone(WINDOW), writer_epoch=0)
    assert store.runs.status(RUN).next_seq_id == 1
    accept(store, operation(WINDOW - 1))
    assert store.journal.next(RUN).gap == (1, 1000.25 + WINDOW - 1)


@pytest.mark.parametrize("seq_id", [0, -1, -5])
def test_the_first_seq_id_is_1(store: Store, seq_id: int) -> None:
    with pytest.raises(InvalidRequest, match="has 1"):
        accept(store, operation(seq_id))


def test_the_largest_gap_is_buried_at_once(store: Store, lease: Lease) -> None:
    accept(store, operation(WINDOW - 1), proves_earlier=True)
    assert store.journal.next(RUN).gap is None
    assert len(store.journal.entries(RUN, 0, WINDOW)) == WINDOW - 1


def test_unknown_and_ended_runs(store: Store) -> None:
    other = "session-9:train:0"
    with pytest.raises(NotFound, match=other):
        accept(store, operation(1, run_id=other))
    with pytest.raises(NotFound, match=other):
        store.journal.entries(other, 0, 1)
    with pytest.raises(NotFound, match=other):
        store.journal.next(other)
    store.runs.restore(run(other))
    with pytest.raises(InvalidRequest, match="checkpoints are left"):
        accept(store, operation(1, run_id=other))
    assert store.journal.next(other).gap is None


def test_accepting_touches_the_time_of_the_last_request(store: Store) -> None:
    accept(store, operation(1, accepted_at=1792000000.123456))
    assert store.runs.status(RUN).last_request_at == 1792000000.123456


def test_trimmed_seq_ids_still_know_their_requests(store: Store, lease: Lease) -> None:
    accept(store, operation(1))
    store.journal.refuse(tombstone(2), writer_epoch=0)
    accept(store, operation(3))
    complete_up_to(store, lease, 3)
    store.journal.set_snapshot(lease, RUN, SnapshotRecord(seq_id=3, prefix="p", step=1))
    store.journal.trim(lease, RUN, 3)
    assert accept(store, operation(1)).duplicate
    with pytest.raises(Conflict):
        accept(store, operation(1, "something else"))
    with pytest.raises(Refused) as refusal:
        accept(store, operation(2))
    assert refusal.value.tombstone == tombstone(2)
    store.journal.refuse(tombstone(3), writer_epoch=0)
    assert accept(store, operation(3)).duplicate
    with pytest.raises(NotFound, match="begins after seq_id 3"):
        store.journal.entries(RUN, 2, 1)
    assert store.journal.entries(RUN, 3, 10) == []
    assert not accept(store, operation(4)).duplicate


def test_two_runs_do_not_touch_each_other(store: Store) -> None:
    create_run(store, "session-1:train:1")
    accept(store, operation(1))
    assert store.runs.status("session-1:train:1").next_seq_id == 1
    assert store.journal.entries("session-1:train:1", 0, 10) == []


def test_a_future_of_another_request_is_a_mistake_of_the_caller(store: Store) -> None:
    future = store.futures.get(f"{RUN}:0")[0]
    with pytest.raises(ValueError, match="is not that of"):
        store.journal.accept(
            operation(1), None, future, writer_epoch=0, proves_earlier=False, max_pending=9
        )
