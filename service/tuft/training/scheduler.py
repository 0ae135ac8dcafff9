"""Which run goes on next: small pieces of work in turns, and in between one micro-batch of rows.

Tenants take turns, and so do a tenant's runs. At most `slots` runs are under way; where more
have work, they take turns, too.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from tuft.training.computing import Answers, Computing, Rows
from tuft.training.patience import Patience, longest_wait_s

Piece = float | Rows
Task = Generator[Piece, Answers | None, None]
"""Work in pieces. Each yield ends a piece.

A number says how many seconds to wait for the next; Rows are computed, and the yield gives
the answers or raises why there are none (see `Computing.micro_batch`).
"""

_TURNS_UNTIL_UNREST = 4
"""A run with gradients keeps its slot for so many times as long as one without."""


@dataclass
class _Running:
    task: Task
    tenant: str
    not_before: float = 0.0
    woken: bool = False
    """Something new came while it ran: start it again when it ends."""
    answer: Answers | Exception | None = None
    used: int = 0
    """Tokens since it got its slot."""


class _Turns:
    """Runs by tenant; tenants take turns, and so do a tenant's runs."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, deque[str]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._runs.values()))

    def append(self, tenant: str, run_id: str) -> None:
        self._runs.setdefault(tenant, deque()).append(run_id)

    def tenants(self) -> list[str]:
        """Whose turn it is first."""
        return list(self._runs)

    def pop(self, tenant: str) -> str:
        """The tenant's next run; its turn is over then."""
        runs = self._runs.pop(tenant)
        run_id = runs.popleft()
        if runs:
            self._runs[tenant] = runs
        return run_id


@dataclass
class Scheduler:
    """`start` makes the task of a run: it does the run's operations as long as there are some."""

    start: Callable[[str], Task]
    computing: Computing
    slots: int
    quantum: int
    """Tokens after which a run gives its slot up where others wait for one."""
    _active: dict[str, _Running] = field(default_factory=dict)
    _ready: _Turns = field(default_factory=_Turns)
    _paused: dict[str, float] = field(default_factory=dict)
    _waiting: _Turns = field(default_factory=_Turns)
    _waiting_since: dict[str, float] = field(default_factory=dict)
    _patience: Patience = field(default_factory=Patience)
    _patient_since: float | None = None

    def wake(self, run_id: str, tenant: str) -> None:
        """There may be something to do for a run."""
        if run_id in self._active:
            self._active[run_id].woken = True
        elif run_id not in self._waiting_since:
            self._waiting_since[run_id] = time.time()
            self._waiting.append(tenant, run_id)

    def came(self, run_id: str, accepted_at: float) -> None:
        """The run's next operation was accepted then, in seconds since the epoch."""
        self._patience.came(run_id, accepted_at)

    def is_active(self, run_id: str) -> bool:
        """Whether the run has a task under way."""
        return run_id in self._active

    @property
    def waiting(self) -> dict[str, float]:
        """Runs that wait for a slot, and since when (seconds since the epoch)."""
        return self._waiting_since

    def use(self, run_id: str, tokens: int) -> None:
        """The run did an operation of so many tokens."""
        self._active[run_id].used += tokens

    def gives_way(self, run_id: str, *, at_rest: bool) -> bool:
        """Whether the run should end its task now and be woken again, since others wait.

        `at_rest`: it has no gradients that would have to be kept with it.
        """
        turns = 1 if at_rest else _TURNS_UNTIL_UNREST
        return len(self._waiting) > 0 and self._active[run_id].used >= turns * self.quantum

    def pieces(self) -> bool:
        """One ready piece of each tenant; False where none is. Raises what a task raises."""
        self._fill_slots()
        now = time.monotonic()
        for run_id in [run_id for run_id, until in self._paused.items() if until <= now]:
            del self._paused[run_id]
            self._ready.append(self._active[run_id].tenant, run_id)
        tenants = self._ready.tenants()
        for tenant in tenants:
            self._advance(self._ready.pop(tenant))
        return len(tenants) > 0

    def patience_s(self) -> float:
        """How long the next micro-batch should wait for runs that are about to have work."""
        if not len(self.computing):
            return 0.0
        now = time.monotonic()
        since = self._patient_since or now
        left = since + longest_wait_s(self.computing.last_s) - now
        wait = min(left, self._patience.wait_s(time.time(), self.computing.would_take))
        if wait <= 0:
            return 0.0
        self._patient_since = since
        return wait

    def micro_batch(self) -> bool:
        """Compute one micro-batch of what waits for it; False where nothing does."""
        self._patient_since = None
        if not len(self.computing):
            return False
        for run_id, answer in self.computing.micro_batch().items():
            running = self._active[run_id]
            running.answer = answer
            self._ready.append(running.tenant, run_id)
        return True

    def idle_s(self) -> float | None:
        """Seconds until something is ready; None where only a `wake` can make it."""
        has_room = len(self._waiting) > 0 and len(self._active) < self.slots
        if len(self._ready) or len(self.computing) or has_room:
            return 0.0
        if not self._paused:
            return None
        return max(0.0, min(self._paused.values()) - time.monotonic())

    def _fill_slots(self) -> None:
        while len(self._waiting) and len(self._active) < self.slots:
            held = [running.tenant for running in self._active.values()]
            tenant = min(self._waiting.tenants(), key=held.count)
            run_id = self._waiting.pop(tenant)
            del self._waiting_since[run_id]
            self._active[run_id] = _Running(self.start(run_id), tenant)
            self._ready.append(tenant, run_id)

    def _advance(self, run_id: str) -> None:
        running = self._active[run_id]
        answer, running.answer = running.answer, None
        try:
            if isinstance(answer, Exception):
                piece = running.task.throw(answer)
            else:
                piece = running.task.send(answer)
        except StopIteration:
            del self._active[run_id]
            if running.woken:
                self.wake(run_id, running.tenant)
            else:
                self._patience.went(run_id, running.tenant, time.time())
            return
        if isinstance(piece, Rows):
            self.computing.add(piece)
        elif piece > 0:
            self._paused[run_id] = time.monotonic() + piece
        else:
            self._ready.append(running.tenant, run_id)
