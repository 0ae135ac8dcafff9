"""Training runs in memory: brought in when they have work, put away when others need the room."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

from tuft.contracts.operations import Operation, Tombstone
from tuft.contracts.records import SnapshotRecord
from tuft.errors import DamagedCheckpoint, InvalidRequest, LeaseLost, NotFound, TuftError
from tuft.store import RunStatus, Store
from tuft.training import commands
from tuft.training.computing import Answers
from tuft.training.group import RankFailure, RankGroup
from tuft.training.operations import Operations
from tuft.training.replica import OPTIMIZER_FILE
from tuft.training.runs import RunState, changes_state, note_failure, note_tombstone
from tuft.training.scheduler import Piece
from tuft.training.snapshotting import Snapshotting
from tuft.training.state import STATE_FILE
from tuft.training.waiting import until_available

log = logging.getLogger(__name__)

T = TypeVar("T")
Bringing = Generator[Piece, Answers | None, T]
"""Work in pieces, as `tuft.training.scheduler.Task`: a replay computes rows beside other runs."""

_REPLAY_AT_ONCE = 32
ALONE_AFTER_DEATHS = 2
FATAL_DEATHS = 3
"""Deaths of the trainer at one operation: after two it is done with nothing beside it, after three
never again."""


@dataclass(frozen=True)
class _PutAway:
    state: RunState
    size: int
    """Bytes on the disk of rank 0."""


@dataclass
class Residents:
    """Keeps up to `limit` runs; the least recently used idle one goes first.

    It goes to the ranks' disks, up to `spill_bytes` of each: weights, moments and gradients come
    back from there bit for bit. Where there is no room any more, the one that went first goes
    from there, too. A run that is nowhere is rebuilt from its last snapshot and the journal
    after it, with the same computations as the first time: on one rank, to the same bits.
    """

    group: RankGroup
    store: Store
    operations: Operations
    snapshotting: Snapshotting
    limit: int
    spill_bytes: int
    is_busy: Callable[[str], bool]
    _states: OrderedDict[str, RunState] = field(default_factory=OrderedDict)
    _away: OrderedDict[str, _PutAway] = field(default_factory=OrderedDict)
    _opening: int = 0

    def get(self, run_id: str) -> RunState | None:
        """The run's state where it is in memory, or on disk."""
        away = self._away.get(run_id)
        return self._states.get(run_id) if away is None else away.state

    def open(self, run_id: str) -> Bringing[RunState]:
        """The run's state, brought into memory first where it is not there.

        Raises:
            NotFound: no such run.
            InDoubt: its replay failed together with rows of other runs; discard it, and open it
                again with its rows alone.
        """
        state = self._states.get(run_id)
        if state is None:
            self._opening += 1
            try:
                yield from self._make_room()
                state = self._bring_back(run_id)
                if state is None:
                    state = yield from self._rebuild(run_id)
            finally:
                self._opening -= 1
            self._states[run_id] = state
        self._states.move_to_end(run_id)
        return state

    def discard(self, run_id: str) -> None:
        """Forget a run whose state is in doubt; it is rebuilt when it is needed."""
        self._states.pop(run_id, None)
        self._away.pop(run_id, None)
        self.group.call(commands.Close(run_id))

    def finish(self, deadline: float) -> None:
        """Snapshot what would cost most to replay, until `deadline` (monotonic)."""
        for run_id in [run_id for run_id, away in self._away.items() if away.state.tokens > 0]:
            if time.monotonic() < deadline:
                state = self._bring_back(run_id)
                if state is not None:
                    self._states[run_id] = state
        # In the middle of an operation, ranks may be ahead of what a snapshot would say of them.
        settled = (state for run_id, state in self._states.items() if not self.is_busy(run_id))
        self.snapshotting.finish(settled, deadline)

    def _make_room(self) -> Generator[float, None, None]:
        while len(self._states) + self._opening > self.limit:
            idle = (state for run_id, state in self._states.items() if not self.is_busy(run_id))
            state = next(idle, None)
            if state is None:
                return
            log.info("putting %s away", state.run_id)
            if self._spill(state):
                yield from self._limit_spilled()
                continue
            yield from self._snapshot_before_leaving(state)
            if not self.is_busy(state.run_id):
                self.discard(state.run_id)

    def _spill(self, state: RunState) -> bool:
        if self.spill_bytes == 0 or state.broken is not None:
            return False
        try:
            sizes = self.group.call(commands.Spill(state.run_id))
        except (TuftError, RankFailure) as error:
            log.warning("%s can't be put on disk: %s", state.run_id, error)
            return False
        del self._states[state.run_id]
        self._away[state.run_id] = _PutAway(state, cast("int", sizes[0]))
        return True

    def _bring_back(self, run_id: str) -> RunState | None:
        away = self._away.get(run_id)
        if away is None:
            return None
        try:
            self.group.call(commands.Unspill(run_id))
        except RankFailure as error:
            log.warning("%s is rebuilt, its copy on disk can't be read: %s", run_id, error)
            self.discard(run_id)
            return None
        del self._away[run_id]
        return away.state

    def _limit_spilled(self) -> Generator[float, None, None]:
        while sum(away.size for away in self._away.values()) > self.spill_bytes:
            run_id = next(iter(self._away))
            state = self._bring_back(run_id)
            if state is None:
                continue
            self._states[run_id] = state
            yield from self._snapshot_before_leaving(state)
            if not self.is_busy(run_id):
                self.discard(run_id)

    def _snapshot_before_leaving(self, state: RunState) -> Generator[float, None, None]:
        if state.tokens == 0 or state.broken is not None or state.being_saved:
            return
        try:
            snapshot = yield from self.snapshotting.write_now(state, state.cursor)
        except LeaseLost:
            raise
        except (TuftError, RankFailure) as error:
            log.warning("%s will come back by replay: %s", state.run_id, error)
            return
        if not self.is_busy(state.run_id):
            yield from self.snapshotting.adopt(state, snapshot)

    def _rebuild(self, run_id: str) -> Bringing[RunState]:
        record = yield from until_available(run_id, lambda: self.store.runs.get(run_id))
        status = yield from until_available(run_id, lambda: self.store.runs.status(run_id))
        state = RunState(record)
        was_alone = run_id in self.operations.alone
        try:
            deaths = yield from until_available(run_id, lambda: self.store.journal.deaths(run_id))
            state.deaths = deaths
            self._see_that_it_does_not_kill(state, status)
            yield from self._restore_snapshot(state, status)
            if state.cursor < status.cursor:
                log.info("replaying %s from %d to %d", run_id, state.cursor, status.cursor)
            yield from self._replay(state, status.cursor)
            survived = [seq_id for seq_id in deaths if seq_id <= status.cursor]
            yield from until_available(
                run_id, lambda: self.store.journal.forget_deaths(run_id, survived)
            )
        except LeaseLost:
            raise
        except (TuftError, RankFailure) as error:
            # Other runs go on; this one can't, and says why.
            log.exception("training run %s can't be rebuilt", run_id)
            state.broken = f"training run {run_id} could not be rebuilt: {error}"
            state.cursor = status.cursor
        if not was_alone:
            self.operations.alone.discard(run_id)
        return state

    def _see_that_it_does_not_kill(self, state: RunState, status: RunStatus) -> None:
        """A replay that killed trainers goes alone, and in the end not at all."""
        worst = max((n for seq, n in state.deaths.items() if seq <= status.cursor), default=0)
        if worst >= FATAL_DEATHS:
            raise InvalidRequest(f"the trainer died {worst} times while it replayed its journal")
        if worst >= ALONE_AFTER_DEATHS:
            self.operations.alone.add(state.run_id)

    def _restore_snapshot(self, state: RunState, status: RunStatus) -> Generator[float, None, None]:
        if status.snapshot is None:
            return
        for snapshot in filter(None, (status.snapshot, status.snapshot_before)):
            try:
                yield from self._restore(state, snapshot)
            except (DamagedCheckpoint, NotFound) as error:
                log.warning("snapshot %s can't be used: %s", snapshot.prefix, error.message)
            else:
                return
        raise DamagedCheckpoint(
            f"none of its snapshots can be read ({status.snapshot.prefix} is the last)"
        )

    def _restore(self, state: RunState, snapshot: SnapshotRecord) -> Generator[float, None, None]:
        files = yield from until_available(
            state.run_id, lambda: self.snapshotting.snapshots.read(snapshot)
        )
        self.group.inflight.begin(state.run_id, snapshot.seq_id)
        if STATE_FILE in files:
            self.group.call(commands.Resume(state.run_id, files[STATE_FILE]))
        else:
            # As earlier versions wrote it.
            optimizer = files.pop(OPTIMIZER_FILE, None)
            self.group.call(commands.Restore(state.run_id, files))
            self.group.call(commands.Start(state.run_id, optimizer))
        state.snapshot, state.cursor, state.step = snapshot, snapshot.seq_id, snapshot.step
        state.accumulated, state.poison = snapshot.accumulated, snapshot.poison

    def _replay(self, state: RunState, up_to: int) -> Bringing[None]:
        run_id = state.run_id
        while state.cursor < up_to:
            count = min(_REPLAY_AT_ONCE, up_to - state.cursor)
            entries = yield from until_available(
                run_id, partial(self.store.journal.entries, run_id, state.cursor, count)
            )
            if not entries:
                raise NotFound(f"its journal has no entry after seq_id {state.cursor}")
            for entry in entries:
                yield from self._replay_entry(state, entry)

    def _replay_entry(self, state: RunState, entry: Operation | Tombstone) -> Bringing[None]:
        if isinstance(entry, Tombstone):
            note_tombstone(state, entry)
            return
        failure = yield from until_available(
            state.run_id, lambda: self.store.journal.failure(entry.run_id, entry.seq_id)
        )
        if failure is not None:
            if note_failure(state, entry, failure):
                self.operations.clear_gradients(state)
        elif changes_state(entry):
            self.group.inflight.begin(entry.run_id, entry.seq_id)
            yield from self.operations.do(state, entry)
        state.cursor = entry.seq_id
