"""When snapshots of training runs are taken, and how: beside the work, and at bounded cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import TypeVar

from tuft.contracts.records import RunRecord, SnapshotRecord
from tuft.errors import LeaseLost, TuftError, Unavailable
from tuft.objects import ObjectStore
from tuft.store import Lease, Store
from tuft.training import commands
from tuft.training.beside import Beside
from tuft.training.group import RankFailure, RankGroup
from tuft.training.runs import RunState
from tuft.training.snapshots import Snapshots, wanted_snapshot
from tuft.training.state import STATE_FILE, AdapterState

log = logging.getLogger(__name__)

# Snapshots may take this share of the time, after so many seconds to begin with.
_SHARE = 0.03
_BURST_S = 2.0
# Copies that wait to be written are memory.
_MOST_WAITING = 4
_MOST_WAITING_BYTES = 1 << 30
# With gradients a snapshot is larger: then the next optim_step is waited for, but not for long.
_PATIENCE = 2
_POLL_S = 0.005
_RETRY_S = 1.0

T = TypeVar("T")


@dataclass
class _Writing:
    state: RunState
    tokens: int
    size: int
    written: Future[SnapshotRecord]


@dataclass
class Snapshotting:
    """Copies what is in memory, which takes milliseconds, and has a thread write the copy.

    When the snapshot is durable it is recorded in the journal, which is then trimmed behind the
    one before.
    """

    group: RankGroup
    store: Store
    objects: ObjectStore
    lease: Lease
    snapshots: Snapshots
    every_tokens: int
    longest_journal: int
    """Entries behind the last snapshot, after which there is a new one whatever it costs."""
    _writing: list[_Writing] = field(default_factory=list)
    _sweeping: Future[None] | None = None
    _spent_s: float = 0.0

    def __post_init__(self) -> None:
        self._thread = Beside("snapshots")
        self._began = time.monotonic()

    def consider(self, state: RunState) -> None:
        """Begin a snapshot of the run if one is due. Raises: LeaseLost."""
        self.poll()
        if state.being_saved or state.broken is not None or self._is_full:
            return
        overdue = self.is_overdue(state.cursor, state.snapshot)
        enough = self.every_tokens * (1 if state.at_rest else _PATIENCE)
        allowed = self._spent_s <= _BURST_S + _SHARE * (time.monotonic() - self._began)
        if overdue or (state.tokens > enough and allowed):
            self._begin(state)

    def is_overdue(self, cursor: int, snapshot: SnapshotRecord | None) -> bool:
        """Whether a journal that stands there has grown long since its snapshot."""
        return cursor - (-1 if snapshot is None else snapshot.seq_id) > self.longest_journal

    def poll(self) -> None:
        """Take note of what was written since the last call. Raises: LeaseLost."""
        if self._sweeping is not None and self._sweeping.done():
            self._sweeping.result()
            self._sweeping = None
        for writing in [writing for writing in self._writing if writing.written.done()]:
            self._writing.remove(writing)
            writing.state.being_saved = False
            try:
                self._note(writing, writing.written.result())
            except TuftError as error:
                if isinstance(error, LeaseLost):
                    raise
                log.warning("no snapshot of %s: %s", writing.state.run_id, error.message)

    @staticmethod
    def _note(writing: _Writing, snapshot: SnapshotRecord) -> None:
        state = writing.state
        # One that was waited for may have come after it.
        if state.snapshot is None or state.snapshot.seq_id < snapshot.seq_id:
            state.snapshot = snapshot
            state.tokens -= writing.tokens

    def write_now(self, state: RunState, seq_id: int) -> Generator[float, None, SnapshotRecord]:
        """Write a snapshot that says "after `seq_id`", and wait for it; `adopt` makes it count.

        Raises:
            StorageFull: there is no room for it.
            RankFailure: it could not be copied.
        """
        copy = self._capture(state)
        wanted = _wanted(state, seq_id)
        return (yield from self._beside(lambda: self._write(state.record, wanted, copy), state))

    def adopt(self, state: RunState, snapshot: SnapshotRecord) -> Generator[float, None, None]:
        """Recover from this snapshot from now on; keep the one before it, and no older."""
        older = state.snapshot
        yield from self._beside(lambda: self._adopt(state.run_id, snapshot, older), state)
        state.snapshot, state.tokens = snapshot, 0

    def finish(self, states: Iterable[RunState], deadline: float) -> None:
        """Snapshots of the runs whose replay would cost most, until `deadline` (monotonic)."""
        unsaved = [state for state in states if state.tokens > 0 and state.broken is None]
        for state in sorted(unsaved, key=lambda state: state.tokens, reverse=True):
            if time.monotonic() < deadline and not state.being_saved:
                self._begin(state)
        for writing in self._writing:
            try:
                writing.written.result(max(0.0, deadline - time.monotonic()))
            except FutureTimeoutError:
                log.warning("no time for more snapshots; the rest comes back by replay")
                break
            except TuftError as error:
                log.warning("no snapshot of %s: %s", writing.state.run_id, error.message)

    def sweep(self, is_known: Callable[[str], bool]) -> None:
        """Remove, beside the work, local snapshots of runs that are gone."""

        def job() -> None:
            try:
                self.snapshots.remove_of_others(is_known)
            except TuftError as error:
                log.warning("old snapshots were not looked through: %s", error.message)

        self._sweeping = self._thread.start(job)

    @property
    def _is_full(self) -> bool:
        waiting = sum(writing.size for writing in self._writing)
        return len(self._writing) >= _MOST_WAITING or waiting > _MOST_WAITING_BYTES

    def _beside(self, do: Callable[[], T], state: RunState) -> Generator[float, None, T]:
        """Have the thread do it, until the stores are there; other runs go on meanwhile."""
        while True:
            done = self._thread.start(do)
            while not done.done():
                yield _POLL_S
            try:
                return done.result()
            except Unavailable as error:
                log.warning("the snapshot of %s waits: %s", state.run_id, error.message)
            yield _RETRY_S

    def _begin(self, state: RunState) -> None:
        try:
            copy = self._capture(state)
        except (TuftError, RankFailure) as error:
            log.warning("no snapshot of %s: %s", state.run_id, error)
            return
        wanted, record, older = _wanted(state, state.cursor), state.record, state.snapshot

        def job() -> SnapshotRecord:
            snapshot = self._write(record, wanted, copy)
            self._adopt(record.run_id, snapshot, older)
            return snapshot

        state.being_saved = True
        self._writing.append(_Writing(state, state.tokens, copy.size, self._thread.start(job)))

    def _capture(self, state: RunState) -> AdapterState:
        begun = time.monotonic()
        (copy, *_) = self.group.call(commands.Capture(state.run_id, state.accumulated))
        self._spent_s += time.monotonic() - begun
        assert isinstance(copy, AdapterState)
        return copy

    def _write(self, run: RunRecord, wanted: SnapshotRecord, copy: AdapterState) -> SnapshotRecord:
        begun = time.thread_time()
        try:
            return self.snapshots.write(run, wanted, {STATE_FILE: copy.encode()})
        finally:
            self._spent_s += time.thread_time() - begun

    def _adopt(self, run_id: str, snapshot: SnapshotRecord, older: SnapshotRecord | None) -> None:
        """Record it; remove what is not needed any more. May be repeated."""
        self.store.journal.set_snapshot(self.lease, run_id, snapshot)
        needed = snapshot if self.snapshots.is_tight else older
        if needed is None or needed.seq_id > snapshot.seq_id:
            return
        unused = self.store.journal.trim(self.lease, run_id, needed.seq_id)
        try:
            for key in unused:
                self.objects.delete(key)
            self.snapshots.remove_before(needed)
        except Unavailable as error:
            log.warning("old snapshots and payloads of %s stay: %s", run_id, error.message)


def _wanted(state: RunState, seq_id: int) -> SnapshotRecord:
    return wanted_snapshot(
        state.run_id,
        seq_id,
        step=state.step,
        accumulated=state.accumulated,
        poison=state.poison,
    )
