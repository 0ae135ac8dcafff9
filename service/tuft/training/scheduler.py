"""Which run goes on next: round robin, one micro-batch (or other small piece) a turn."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

Task = Generator[float, None, None]
"""Work in pieces. Each yield ends a piece, and says how many seconds to wait for the next."""


@dataclass
class _Running:
    task: Task
    not_before: float = 0.0
    woken: bool = False
    """Something new came while it ran: start it again when it ends."""


@dataclass
class Scheduler:
    """Runs of all tenants take turns; at most `max_active` are under way at a time.

    `start` makes the task of a run: it does the run's operations as long as there are some.
    """

    start: Callable[[str], Task]
    max_active: int
    _active: dict[str, _Running] = field(default_factory=dict)
    _ready: deque[str] = field(default_factory=deque)
    _waiting: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def wake(self, run_id: str) -> None:
        """There may be something to do for a run."""
        if run_id in self._active:
            self._active[run_id].woken = True
        else:
            self._waiting[run_id] = None

    def is_active(self, run_id: str) -> bool:
        """Whether the run has a task under way."""
        return run_id in self._active

    def turn(self) -> bool:
        """Do the next piece of work; False where none is ready. Raises what the task raises."""
        while self._waiting and len(self._active) < self.max_active:
            run_id, _ = self._waiting.popitem(last=False)
            self._active[run_id] = _Running(self.start(run_id))
            self._ready.append(run_id)
        now = time.monotonic()
        for _ in range(len(self._ready)):
            run_id = self._ready.popleft()
            running = self._active[run_id]
            if running.not_before > now:
                self._ready.append(run_id)
                continue
            self._advance(run_id, running)
            return True
        return False

    def idle_s(self) -> float | None:
        """Seconds until a piece is ready; None where only a `wake` can make one."""
        if self._waiting and len(self._active) < self.max_active:
            return 0.0
        if not self._active:
            return None
        soonest = min(running.not_before for running in self._active.values())
        return max(0.0, soonest - time.monotonic())

    def _advance(self, run_id: str, running: _Running) -> None:
        try:
            pause = next(running.task)
        except StopIteration:
            del self._active[run_id]
            if running.woken:
                self._waiting[run_id] = None
            return
        running.not_before = time.monotonic() + pause if pause > 0 else 0.0
        self._ready.append(run_id)
