"""Journal and ledger on a real server, beside a simple model of them, under random use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.helpers.leases import take_lease
from tests.service.store.journal_model import Entry, Limits, Model, Run, Step
from tests.service.store.records import MODEL, TENANT, operation, pending, run
from tests.service.store.servers import kill, server
from tuft.contracts.operations import CreateModel, FutureRecord, Operation, Tombstone
from tuft.contracts.records import LedgerAttempt, LedgerEntry, SnapshotRecord
from tuft.errors import Conflict, Expired, LeaseLost, NotFound, QueueFull, StaleWriter
from tuft.store import Accepted, EmbeddedStore, Lease, Outcome, Refused, Store, connect
from tuft.store.connection import Connection
from tuft.store_tools.check import check_store

RUNS = ["session-1:train:0", "session-1:train:1"]
LIMITS = Limits()
T = TypeVar("T")

runs = st.sampled_from(RUNS)
# About the cursor, mostly a bit ahead.
offsets = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 5, 0, -1, -2])
contents = st.sampled_from(["content", "content", "another content"])
bodies = st.one_of(st.none(), st.binary(max_size=8))
# Whose lease and whose epoch: mostly the newest.
ages = st.sampled_from([0, 0, 1])
step_keys = st.sampled_from(["step a", "step b", "step c"])
writers = st.sampled_from(["pod a", "pod b", "pod c"])


class JournalMachine(RuleBasedStateMachine):
    """Each rule does one thing to both, and compares the answers; invariants compare the rest."""

    url = ""

    @initialize(done=st.lists(st.integers(0, 5), min_size=2, max_size=2))
    def begin(self, done: list[int]) -> None:
        """A second trainer and a second writer, and runs in which something was done."""
        connect(self.url).flushall()
        self.store = Store(connect(self.url))
        self.model = Model(LIMITS)
        self.leases: list[Lease] = []
        self.lead()
        self.lead()
        for run_id, count in zip(RUNS, done, strict=True):
            self.create(run_id, "content")
            self.attach(run_id, "pod a")
            for _ in range(count):
                self.work(run_id, 1, b"result", fails=False)
                self.accept(run_id, 1, "content", b"payload", 0, proves_earlier=True)
            self.begin_step(run_id, "step a", 0)
            self.plan_step(run_id, "step a", 0, "plan")

    @rule(who=st.sampled_from(["trainer", "writer", "writer", "run"]), run_id=runs, name=writers)
    def come(self, who: str, run_id: str, name: str) -> None:
        """Somebody takes over, or comes again."""
        if who == "trainer":
            self.lead()
        elif who == "writer":
            self.attach(run_id, name)
        else:
            self.create(run_id, "content" if name == "pod a" else "another content")

    def lead(self) -> None:
        lease = take_lease(self.store, f"trainer:{MODEL}")
        assert lease.epoch > self.model.lease
        self.leases.append(lease)
        self.model.lease = lease.epoch

    def create(self, run_id: str, content: str) -> None:
        record = run(run_id)
        body = CreateModel(lora=record.lora)
        op = operation(0, run_id=run_id, body=body).model_copy(update={"digest": content})
        future = pending(op.request_id)
        said = _acceptance(lambda: self.store.runs.create(record, op, future, max_runs=9))
        assert said == self.model.create(run_id, content)

    def attach(self, run_id: str, writer: str) -> None:
        status = self.store.runs.attach(run_id, writer)
        assert status.writer_epoch == self.model.attach(run_id, writer)

    @rule(
        run_id=runs,
        about=st.lists(st.tuples(offsets, contents), min_size=1, max_size=6),
        payload=st.binary(max_size=8),
        age=ages,
        proves_earlier=st.booleans(),
    )
    def submit(
        self,
        run_id: str,
        about: list[tuple[int, str]],
        payload: bytes,
        age: int,
        proves_earlier: bool,
    ) -> None:
        for offset, content in about:
            self.accept(run_id, offset, content, payload, age, proves_earlier)

    def accept(
        self,
        run_id: str,
        offset: int,
        content: str,
        payload: bytes,
        age: int,
        proves_earlier: bool,
    ) -> None:
        known = self.model.runs[run_id]
        if known.cursor + offset < 1:
            return
        seq, epoch = known.cursor + offset, known.writer_epoch - age
        op = _operation(run_id, seq, content)
        said = _acceptance(
            lambda: self.store.journal.accept(
                op,
                payload,
                pending(op.request_id),
                writer_epoch=epoch,
                proves_earlier=proves_earlier,
                max_pending=LIMITS.pending,
                max_tenant_pending=LIMITS.of_tenant,
                max_behind_snapshot=LIMITS.behind_snapshot,
            )
        )
        entry = Entry(content, payload)
        assert said == self.model.accept(
            run_id, seq, entry, epoch=epoch, proves_earlier=proves_earlier
        )

    @rule(run_id=runs, offset=offsets, age=ages)
    def refuse(self, run_id: str, offset: int, age: int) -> None:
        known = self.model.runs[run_id]
        if known.cursor + offset < 1:
            return
        seq, epoch = known.cursor + offset, known.writer_epoch - age
        tombstone = Tombstone(run_id=run_id, seq_id=seq, reason="bad", poisons=True)

        def refuse() -> str:
            self.store.journal.refuse(tombstone, writer_epoch=epoch)
            return "refused"

        assert _said(refuse) == self.model.refuse(run_id, seq, epoch)

    @rule(run_id=runs, times=st.integers(1, 4), body=bodies, fails=st.booleans())
    def work(self, run_id: str, times: int, body: bytes | None, fails: bool) -> None:
        """What a trainer does: the entries after the cursor, one by one."""
        for _ in range(times):
            if self.model.runs[run_id].filled > self.model.runs[run_id].cursor:
                self.move_on(run_id, 1, 0, body, fails)

    @rule(run_id=runs, offset=offsets, age=ages, body=bodies, fails=st.booleans())
    def move_on(self, run_id: str, offset: int, age: int, body: bytes | None, fails: bool) -> None:
        known = self.model.runs[run_id]
        if known.cursor + offset < 0:
            return
        seq, lease = known.cursor + offset, self.leases[-1 - age]
        entry = known.entries.get(seq, Entry("content"))
        op = _operation(run_id, seq, entry.content or "")
        future = pending(op.request_id).model_copy(
            update={"status": "failed", "error": "why"} if fails else {"status": "done"}
        )
        body = None if fails else body

        def move() -> str:
            if entry.content is None:
                self.store.journal.pass_tombstone(lease, run_id, seq)
            else:
                self.store.journal.complete(
                    lease,
                    op,
                    Outcome(future, body),
                    result_ttl_s=600,
                    max_kept=LIMITS.kept_results,
                )
            return "ok"

        outcome = None if entry.content is None else (future.status, body)
        assert _said(move) == self.model.move_on(run_id, seq, lease.epoch, outcome)

    @rule(
        run_id=runs,
        snapshot_at=st.sampled_from([0, 0, -1, -3, 1]),
        trim_to=st.sampled_from([None, 0, 0, -1, 1]),
        age=ages,
    )
    def keep(self, run_id: str, snapshot_at: int, trim_to: int | None, age: int) -> None:
        self.snapshot(run_id, snapshot_at, age)
        if trim_to is not None:
            self.trim(run_id, snapshot_at + trim_to, age)

    def snapshot(self, run_id: str, offset: int, age: int) -> None:
        known = self.model.runs[run_id]
        if known.cursor + offset < 0:
            return
        seq, lease = known.cursor + offset, self.leases[-1 - age]
        record = SnapshotRecord(seq_id=seq, prefix=f"{run_id}/{seq}", step=1)

        def record_it() -> str:
            self.store.journal.set_snapshot(lease, run_id, record)
            return "ok"

        assert _said(record_it) == self.model.set_snapshot(run_id, seq, lease.epoch)

    def trim(self, run_id: str, offset: int, age: int) -> None:
        known = self.model.runs[run_id]
        up_to, lease = known.cursor + offset, self.leases[-1 - age]

        def trim() -> str:
            self.store.journal.trim(lease, run_id, up_to)
            return "ok"

        assert _said(trim) == self.model.trim(run_id, up_to, lease.epoch)

    @rule(run_id=runs, offset=offsets)
    def die(self, run_id: str, offset: int) -> None:
        known = self.model.runs[run_id]
        if known.cursor + offset not in known.entries:
            return
        seq = known.cursor + offset
        if seq > known.cursor:
            known.deaths[seq] = known.deaths.get(seq, 0) + 1
            life = f"life-{known.deaths[seq]}"
            for _ in range(2):  # told again, it is the same death
                told = self.store.journal.note_death(run_id, seq, life)
                assert told == known.deaths[seq]

    @rule(
        run_id=runs,
        key=step_keys,
        age=ages,
        what=st.lists(st.integers(0, 5), min_size=1, max_size=4),
        content=contents,
    )
    def step(self, run_id: str, key: str, age: int, what: list[int], content: str) -> None:
        for number in what:
            if number == 0:
                self.begin_step(run_id, key, age)
            elif number == 1:
                self.plan_step(run_id, key, age, content)
            elif number == 2:
                self.finish_step(run_id, key, age, content)
            else:
                self.attempt_step(run_id, key, age, number - 2)

    def begin_step(self, run_id: str, key: str, age: int) -> None:
        known = self.model.runs[run_id]
        epoch = known.writer_epoch - age
        self._compare(
            lambda: self.store.ledger.begin(run_id, key, writer_epoch=epoch, first_seq_id=None),
            self.model.begin(run_id, key, epoch),
        )

    def plan_step(self, run_id: str, key: str, age: int, plan: str) -> None:
        known = self.model.runs[run_id]
        if key not in known.steps:
            return
        epoch, first = known.writer_epoch - age, known.top + 1
        self._compare(
            lambda: self.store.ledger.record_plan(run_id, key, plan, first, writer_epoch=epoch),
            self.model.plan(run_id, key, plan, first, epoch),
        )

    def attempt_step(self, run_id: str, key: str, age: int, number: int) -> None:
        known = self.model.runs[run_id]
        if key not in known.steps:
            return
        epoch, first = known.writer_epoch - age, known.top + 1
        attempt = LedgerAttempt(first_operation=number, first_seq_id=first)
        self._compare(
            lambda: self.store.ledger.record_attempt(
                run_id, key, number, attempt, writer_epoch=epoch
            ),
            self.model.attempt(run_id, key, number, (number, first), epoch),
        )

    def finish_step(self, run_id: str, key: str, age: int, result: str) -> None:
        known = self.model.runs[run_id]
        if key not in known.steps:
            return
        epoch = known.writer_epoch - age
        self._compare(
            lambda: self.store.ledger.finish(run_id, key, result, writer_epoch=epoch),
            self.model.finish(run_id, key, result, epoch),
        )

    def _compare(self, ask: Callable[[], LedgerEntry], expected: Step | None) -> None:
        if expected is None:
            with pytest.raises(StaleWriter):
                ask()
        else:
            assert _step(ask()) == expected

    @invariant()
    def runs_are_the_same(self) -> None:
        for run_id, known in self.model.runs.items():
            status = self.store.runs.status(run_id)
            assert (status.cursor, status.next_seq_id) == (known.cursor, known.top + 1)
            assert status.writer_epoch == known.writer_epoch
            snapshot = None if status.snapshot is None else status.snapshot.seq_id
            assert snapshot == known.snapshot
            assert self.store.journal.deaths(run_id) == known.deaths
            self._journal_is_the_same(run_id, known)
            for key, step in known.steps.items():
                found = self.store.ledger.get(run_id, key)
                assert found is not None
                assert _step(found) == step
        busy = {run_id for run_id, known in self.model.runs.items() if known.cursor < known.top}
        assert set(self.store.runs.pending_run_ids(MODEL)) == busy

    def _journal_is_the_same(self, run_id: str, known: Run) -> None:
        journal = self.store.journal
        found = journal.entries(run_id, known.trimmed, 100)
        expected = range(known.trimmed + 1, known.filled + 1)
        assert [entry.seq_id for entry in found] == list(expected)
        for entry in found:
            content = entry.digest if isinstance(entry, Operation) else None
            assert content == known.entries[entry.seq_id].content
        following = journal.next(run_id)
        assert following.cursor == known.cursor
        after = known.entries.get(known.cursor + 1)
        assert (following.entry is None) == (after is None)
        if after is not None and after.content is not None:
            assert following.payload == after.payload
        behind_gap = known.top > known.filled
        operations = any(
            seq > known.filled and entry.content is not None for seq, entry in known.entries.items()
        )
        assert (following.gap is not None) == (behind_gap and operations)
        for seq in range(known.trimmed, known.cursor + 1):
            assert journal.failure(run_id, seq) == known.failures.get(seq)

    @invariant()
    def results_are_the_same(self) -> None:
        results = self.model.results
        done = {
            name: (_future(name, status), body)
            for name, (status, body) in results.items()
            if status != "pending"
        }
        assert self.store.futures.finished(list(results)) == done
        for name in results.keys() - done.keys():
            assert self.store.futures.get(name) == (_future(name, "pending"), None)

    def teardown(self) -> None:
        if self.url and hasattr(self, "store"):
            assert list(check_store(Connection(connect(self.url)), None, None)) == []
            for run_id, known in self.model.runs.items():
                for seq in range(known.cursor + 1):
                    if (name := f"{run_id}:{seq}") not in self.model.results:
                        with pytest.raises((Expired, NotFound)):  # a tombstone has no future
                            self.store.futures.get(name)


def test_journal_and_ledger_do_as_the_model(valkey_url: str) -> None:
    machine = type("Machine", (JournalMachine,), {"url": valkey_url})
    run_state_machine_as_test(machine, settings=settings(max_examples=24, stateful_step_count=40))


class MortalMachine(JournalMachine):
    """Its server is killed every now and then."""

    embedded: EmbeddedStore

    @rule(really=st.integers(0, 9))
    @precondition(lambda self: hasattr(self, "store"))
    def power_cut(self, really: int) -> None:
        if really == 0:
            kill(self.embedded)
            self.embedded.start()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_at_length(valkey_url: str) -> None:
    machine = type("Machine", (JournalMachine,), {"url": valkey_url})
    run_state_machine_as_test(machine, settings=settings(max_examples=200, stateful_step_count=80))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        more = {"url": running.url, "embedded": running}
        machine = type("Machine", (MortalMachine,), more)
        run_state_machine_as_test(
            machine, settings=settings(max_examples=60, stateful_step_count=60)
        )


def _operation(run_id: str, seq: int, content: str) -> Operation:
    return operation(seq, run_id=run_id).model_copy(update={"digest": content})


def _future(request_id: str, status: str) -> FutureRecord:
    more = {"status": status, **({"error": "why"} if status == "failed" else {})}
    return pending(request_id, TENANT).model_copy(update=more)


def _acceptance(ask: Callable[[], Accepted]) -> str:
    return _said(lambda: "duplicate" if ask().duplicate else "accepted")


def _said(ask: Callable[[], str]) -> str:
    """The model's word for an answer or error."""
    try:
        return ask()
    except LeaseLost:
        return "lease"
    except ValueError:
        return "impossible"
    except QueueFull:
        return "full"
    except StaleWriter:
        return "stale"
    except Conflict:
        return "conflict"
    except Refused:
        return "refused"


def _step(entry: LedgerEntry) -> Step:
    return Step(
        state=entry.state,
        plan=entry.plan_object,
        first_seq_id=entry.first_seq_id,
        attempts=[(one.first_operation, one.first_seq_id) for one in entry.attempts],
        overtaken_at=entry.overtaken_at,
        result=entry.result,
    )
