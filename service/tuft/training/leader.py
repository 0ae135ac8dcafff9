"""Rank 0: takes operations from the journal, has them done, and records their outcomes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Generator
from functools import partial
from typing import Literal

from tuft.config import ServiceConfig
from tuft.contracts.operations import (
    ClearGradients,
    CreateFromCheckpoint,
    CreateModel,
    ForwardBackward,
    FutureRecord,
    LoadWeights,
    Operation,
    OptimStep,
    SaveWeights,
    SaveWeightsForSampler,
    Tombstone,
)
from tuft.contracts.records import Disposable, SnapshotRecord
from tuft.errors import (
    LeaseLost,
    NotFound,
    StaleWriter,
    StorageFull,
    TuftError,
    Unavailable,
)
from tuft.objects import ObjectStore
from tuft.store import Effect, Lease, Outcome, Store
from tuft.training.budget import Budget
from tuft.training.computing import Answers, Computing, InDoubt
from tuft.training.group import RankFailure, RankGroup
from tuft.training.operations import Done, Operations
from tuft.training.residents import ALONE_AFTER_DEATHS, FATAL_DEATHS, Residents
from tuft.training.runs import RunState, changes_state, note_failure, note_tombstone
from tuft.training.scheduler import Piece, Scheduler, Task
from tuft.training.snapshots import Snapshots
from tuft.training.snapshotting import Snapshotting
from tuft.training.waiting import patiently, until_available

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 1.0
_LEASE_CHECK_S = 5.0
# Small pieces (optim_step, save, recording results) between two micro-batches.
_PIECES_S = 0.2
# Between them, new work is looked for so often.
_LISTEN_EVERY_S = 0.002
# Where runs wait for a slot, a run goes after so many micro-batches of its own, or after so many
# times as many operations without tokens.
_QUANTUM = 4
_OPERATIONS_A_MICRO_BATCH = 8
# Operations that a journal may hold behind the last snapshot, whatever a replay would cost.
_LONGEST_JOURNAL = 1000
_SERVER_ERRORS = frozenset({"config", "internal", "storage_full"})
_RESULT_TYPES = {
    CreateModel: "CreateModel",
    CreateFromCheckpoint: "LoadWeights",
    OptimStep: "OptimStep",
    ClearGradients: "ClearGradients",
    SaveWeights: "SaveWeights",
    SaveWeightsForSampler: "SaveWeightsForSampler",
    LoadWeights: "LoadWeights",
}

Category = Literal["user", "server"]
_USER: Category = "user"
_SERVER: Category = "server"


class Leader:
    """One base model's operations, in order of seq_id within a run, runs taking turns."""

    def __init__(
        self,
        group: RankGroup,
        store: Store,
        objects: ObjectStore,
        config: ServiceConfig,
        model_name: str,
        lease: Lease,
    ) -> None:
        self._group = group
        self._store = store
        self._objects = objects
        self._config = config
        self._model_name = model_name
        self._lease = lease
        slots = config.trainer.max_resident_adapters
        tokens = config.trainer.micro_batch_tokens
        budget = group.automatic_budget() if tokens is None else Budget(tokens, tokens)
        self._scheduler = Scheduler(
            start=self._serve,
            computing=Computing(group, budget),
            slots=slots,
            quantum=_QUANTUM * budget.shared,
        )
        self._cost_of_an_operation = max(1, budget.shared // _OPERATIONS_A_MICRO_BATCH)
        self._operations = Operations(group, store, objects, config, lease)
        self.snapshotting = Snapshotting(
            group=group,
            store=store,
            objects=objects,
            lease=lease,
            snapshots=Snapshots(config, objects),
            every_tokens=config.trainer.snapshot_every_tokens,
            longest_journal=min(_LONGEST_JOURNAL, config.limits.max_journal_operations // 2),
        )
        self._residents = Residents(
            group=group,
            store=store,
            operations=self._operations,
            snapshotting=self.snapshotting,
            limit=slots,
            spill_bytes=int(config.trainer.spill_gb * 1e9),
            is_busy=self._scheduler.is_active,
        )
        self._gaps: dict[str, float] = {}
        self._missing: dict[str, tuple[int, float]] = {}
        """Seq_ids that operations wait for, and since when we know."""
        self._tenants: dict[str, str] = {}
        self._unknown: dict[str, None] = {}
        """Runs that there is news of, those to look at first in front."""
        self._last_event = "0-0"
        self._next_lease_check = 0.0
        self._told_who_waits = False
        self._ending = False

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; what has begun by then is finished. Raises: LeaseLost."""
        self._tell_of_deaths()
        self.snapshotting.sweep(self._exists)
        self.look_everywhere()
        while not stop.is_set():
            self.turn()

    def finish(self, deadline: float) -> None:
        """End the operations that have begun, and snapshot what would cost most to replay, until
        `deadline` of the monotonic clock.

        Nothing is lost where that is too soon. Then the other ranks are told to end.
        """
        self._ending = True
        for_operations = (time.monotonic() + deadline) / 2
        while time.monotonic() < for_operations:
            if not self._scheduler.pieces() and not self._scheduler.micro_batch():
                break
        self._residents.finish(deadline)
        self._group.end()

    def _tell_of_deaths(self) -> None:
        """What the trainer before this one was doing when it died is held against it."""
        life, marks = self._group.inflight.left_behind()
        for run_id, seq_id in marks:
            count = patiently(partial(self._store.journal.note_death, run_id, seq_id, life))
            log.warning("the trainer died at %s:%d, %d time(s) by now", run_id, seq_id, count)
        self._group.inflight.clear()

    def _exists(self, run_id: str) -> bool:
        return bool(self._store.runs.tenants([run_id]))

    def state(self, run_id: str) -> RunState | None:
        """Of a run in memory, or on the ranks' disks."""
        return self._residents.get(run_id)

    def turn(self) -> None:
        """Small pieces of work that are ready, then one micro-batch; or wait up to a second.

        What arrives while a micro-batch is computed is seen before the next. Raises: LeaseLost.
        """
        self._listen(self._wait_s())
        self._pieces()
        while (wait := self._scheduler.patience_s()) > 0:
            self._listen(wait)
            self._pieces()
        self._scheduler.micro_batch()
        self.snapshotting.poll()
        self._check_lease()

    def _pieces(self) -> None:
        # Whoever steps or saves must not keep rows waiting for longer than rows keep them.
        now = listened = time.monotonic()
        until = now + _PIECES_S
        while self._scheduler.pieces() and (now := time.monotonic()) < until:
            if now - listened > _LISTEN_EVERY_S:
                self._listen(0.0)
                listened = now

    def look_everywhere(self) -> None:
        """Take up all runs, as events of earlier times told of them."""
        stream = f"work:{self._model_name}"
        self._last_event = patiently(partial(self._store.events.latest, stream))
        pending = patiently(partial(self._store.runs.pending_run_ids, self._model_name))
        self._unknown.update(dict.fromkeys(pending))

    def _wait_s(self) -> float:
        idle = self._scheduler.idle_s()
        until_gap = [deadline - time.monotonic() for deadline in self._gaps.values()]
        waits = [_LONGEST_WAIT_S, *until_gap, *([] if idle is None else [idle])]
        return 0.0 if self._unknown else max(0.0, min(waits))

    def _listen(self, wait_s: float) -> None:
        """Take up the runs that there is news of, waiting for some where there is none."""
        try:
            self._last_event, run_ids = self._store.events.work(
                self._model_name, self._last_event, math.ceil(wait_s * 1000)
            )
            now = time.monotonic()
            overdue = [run_id for run_id, deadline in self._gaps.items() if deadline <= now]
            self._unknown.update(dict.fromkeys([*run_ids, *overdue]))
            self._wake()
        except Unavailable as error:
            log.warning("the store is away: %s", error.message)
            time.sleep(max(wait_s, 0.1))

    def _wake(self) -> None:
        strangers = [run_id for run_id in self._unknown if run_id not in self._tenants]
        if strangers:
            self._tenants.update(self._store.runs.tenants(strangers))
        for run_id in [run_id for run_id in self._unknown if run_id in self._tenants]:
            self._gaps.pop(run_id, None)
            self._scheduler.wake(run_id, self._tenants[run_id])
        self._unknown.clear()

    def _check_lease(self) -> None:
        if time.monotonic() < self._next_lease_check:
            return
        try:
            self._store.workers.check(self._lease)
            self._tell_who_waits()
        except Unavailable as error:
            log.warning("the lease can't be checked: %s", error.message)
        self._next_lease_check = time.monotonic() + _LEASE_CHECK_S

    def _tell_who_waits(self) -> None:
        long_ago = time.time() - _LEASE_CHECK_S / 2
        waiting = [run for run, since in self._scheduler.waiting.items() if since < long_ago]
        if waiting or self._told_who_waits:
            reason = (
                f"{self._scheduler.slots} training runs of {self._model_name} are under way, as "
                "many as trainer.max_resident_adapters; "
                f"{len(waiting)} with work wait for their turn"
            )
            self._store.queues.publish(self._model_name, dict.fromkeys(waiting, reason))
        self._told_who_waits = bool(waiting)

    def _serve(self, run_id: str) -> Task:
        """All that a run has to do now. A run with nothing to do is not brought into memory."""
        served = False
        try:
            while not self._ending and (found := (yield from self._next_entry(run_id))) is not None:
                served = True
                state = yield from self._serve_entry(run_id, *found)
                if state is not None and self._scheduler.gives_way(run_id, at_rest=state.at_rest):
                    self._scheduler.wake(run_id, state.record.tenant)
                    return
                yield 0.0
            if not served and not self._ending:
                yield from self._shorten_journal(run_id)
        except NotFound as error:
            log.warning("training run %s is gone: %s", run_id, error.message)

    def _shorten_journal(self, run_id: str) -> Task:
        """A run that takes no more operations until it has a snapshot gets one."""
        status = yield from until_available(run_id, lambda: self._store.runs.status(run_id))
        if self.snapshotting.is_overdue(status.cursor, status.snapshot):
            state = yield from self._residents.open(run_id)
            self.snapshotting.consider(state)

    def _serve_entry(
        self, run_id: str, entry: Operation | Tombstone, payload: bytes | None
    ) -> Generator[Piece, Answers | None, RunState | None]:
        """None where the entry has to be done once more."""
        try:
            state = yield from self._residents.open(run_id)
            if isinstance(entry, Tombstone):
                yield from self._pass_tombstone(state, entry)
            else:
                self._group.inflight.begin(run_id, entry.seq_id)
                if state.deaths.get(entry.seq_id, 0) >= ALONE_AFTER_DEATHS:
                    self._operations.alone.add(run_id)
                yield from self._finish(state, entry, payload)
        except InDoubt as error:
            log.warning("%s is rebuilt, and goes on alone: %s", run_id, error)
            self._residents.discard(run_id)
            self._operations.alone.add(run_id)
            return None
        self._operations.alone.discard(run_id)
        tokens = 0
        if isinstance(entry, Operation) and isinstance(entry.body, ForwardBackward):
            tokens = entry.body.tokens
        self._scheduler.use(run_id, max(tokens, self._cost_of_an_operation))
        return state

    def _next_entry(
        self, run_id: str
    ) -> Generator[float, None, tuple[Operation | Tombstone, bytes | None] | None]:
        """The entry after the cursor, and its inline payload; None where there is none yet."""
        while True:
            state = self._residents.get(run_id)
            found = yield from until_available(run_id, lambda: self._store.journal.next(run_id))
            if state is not None and state.cursor != found.cursor:
                raise LeaseLost(f"the journal of {run_id} was moved on by another worker")
            if found.entry is not None:
                self._missing.pop(run_id, None)
                if isinstance(found.entry, Operation):
                    self._scheduler.came(run_id, found.entry.accepted_at)
                return found.entry, found.payload
            if found.gap is None:
                return None
            missing, _ = found.gap
            # By our own clock, that nobody sets: a jump must not bury what is about to arrive.
            if self._missing.get(run_id, (0, 0.0))[0] != missing:
                self._missing[run_id] = (missing, time.monotonic())
            deadline = self._missing[run_id][1] + self._config.limits.gap_timeout_s
            if time.monotonic() < deadline:
                self._gaps[run_id] = deadline
                return None
            yield from self._bury(run_id, missing, found.writer_epoch)

    def _bury(self, run_id: str, seq_id: int, writer_epoch: int) -> Generator[float, None, None]:
        timeout = self._config.limits.gap_timeout_s
        tombstone = Tombstone(
            run_id=run_id,
            seq_id=seq_id,
            reason=f"it did not arrive within {timeout:g} s of a later one",
            poisons=True,
        )
        try:
            yield from until_available(
                run_id,
                lambda: self._store.journal.refuse(tombstone, writer_epoch=writer_epoch),
            )
        except StaleWriter as error:
            log.info("another writer attached meanwhile: %s", error.message)

    def _pass_tombstone(self, state: RunState, tombstone: Tombstone) -> Task:
        yield from until_available(
            state.run_id,
            lambda: self._store.journal.pass_tombstone(self._lease, state.run_id, tombstone.seq_id),
        )
        note_tombstone(state, tombstone)

    def _finish(self, state: RunState, op: Operation, payload: bytes | None) -> Task:
        """Do an operation and record its outcome, whatever that is."""
        done: Done | None = None
        snapshot: SnapshotRecord | None = None
        reason, category, in_doubt = "", _USER, False
        try:
            _see_that_it_does_not_kill(state, op)
            done = yield from self._operations.do(state, op, payload)
            snapshot = yield from self._keep(state, op)
        except LeaseLost:
            raise
        except TuftError as error:
            reason, category = error.message, _category(error)
            # Done and not kept: the run must be as it was before.
            in_doubt = done is not None
        except RankFailure as error:
            reason, category = f"internal error in the trainer: {error}", _SERVER
            # What a forward_backward left behind is never applied: it poisons the next step.
            in_doubt = changes_state(op) and not isinstance(op.body, ForwardBackward)
        if done is not None and not in_doubt:
            yield from self._complete(state, op, done)
        else:
            if note_failure(state, op, reason):
                self._operations.clear_gradients(state)
            yield from self._fail(state, op, reason, category)
        state.cursor = op.seq_id
        if in_doubt:
            self._residents.discard(state.run_id)
        elif snapshot is not None:
            yield from self.snapshotting.adopt(state, snapshot)
        else:
            self.snapshotting.consider(state)

    def _keep(
        self, state: RunState, op: Operation
    ) -> Generator[float, None, SnapshotRecord | None]:
        """A replay must not need a checkpoint that its owner may delete."""
        if not isinstance(op.body, CreateFromCheckpoint | LoadWeights):
            return None
        try:
            return (yield from self.snapshotting.write_now(state, op.seq_id))
        except StorageFull as error:
            raise StorageFull(
                f"{op.body.path} was not loaded, since there is no room for the snapshot that would "
                f"keep what was loaded: {error.message}"
            ) from error

    def _complete(self, state: RunState, op: Operation, done: Done) -> Task:
        future = FutureRecord(
            request_id=op.request_id,
            tenant=state.record.tenant,
            result_type=result_type_of(op),
            status="done",
            content=done.content,
        )
        body: bytes | None = done.body
        if len(done.body) > self._config.limits.inline_payload_bytes:
            key = f"results/{op.request_id}"
            ends_at = time.time() + self._config.limits.result_ttl_s
            try:
                yield from until_available(
                    op.request_id,
                    lambda: self._store.disposal.schedule(Disposable(key=key), ends_at),
                )
                yield from until_available(op.request_id, lambda: self._objects.put(key, done.body))
                future, body = future.model_copy(update={"body_object": key}), None
            except TuftError as error:
                # It is done and must be told; the store takes what the object store can't.
                log.warning("the result of %s is kept inline: %s", op.request_id, error.message)
        yield from self._record(op, Outcome(future, body), done.effects)

    def _fail(self, state: RunState, op: Operation, reason: str, category: Category) -> Task:
        log.info("%s failed: %s", op.request_id, reason)
        future = FutureRecord(
            request_id=op.request_id,
            tenant=state.record.tenant,
            result_type=result_type_of(op),
            status="failed",
            error=reason,
            category=category,
        )
        yield from self._record(op, Outcome(future, None), [])

    def _record(self, op: Operation, outcome: Outcome, effects: list[Effect]) -> Task:
        yield from until_available(
            op.request_id,
            lambda: self._store.journal.complete(
                self._lease,
                op,
                outcome,
                effects,
                result_ttl_s=self._config.limits.result_ttl_s,
                max_kept=self._config.limits.max_kept_results,
            ),
        )


def _see_that_it_does_not_kill(state: RunState, op: Operation) -> None:
    deaths = state.deaths.get(op.seq_id, 0)
    if deaths >= FATAL_DEATHS:
        raise TuftError(
            f"the trainer died {deaths} times while it worked on this operation, the last time on "
            "nothing else; it is not tried again"
        )


def result_type_of(op: Operation) -> str:
    """The SDK's name of the request, as FutureRecord has it."""
    body = op.body
    if isinstance(body, ForwardBackward):
        return "Forward" if body.forward_only else "ForwardBackward"
    return _RESULT_TYPES[type(body)]


def _category(error: TuftError) -> Category:
    return _SERVER if error.retryable or error.code in _SERVER_ERRORS else _USER
