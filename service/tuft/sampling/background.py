"""Jobs beside the decode loop: what waits for the network must not hold up sampling."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from tuft.errors import TuftError, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 5.0


class Background:
    """Runs jobs in daemon threads; their ends are told by `poll`, on the caller's thread.

    A job that raises Unavailable is tried again, later and later, for as long as it takes;
    other jobs go on meanwhile. Any other TuftError is its end. Anything else is a bug: `poll`
    raises it.
    """

    def __init__(self, threads: int = 4) -> None:
        self._todo: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._later: list[tuple[float, int, _Job]] = []
        self._numbers = itertools.count()
        self.pending = 0
        """Jobs whose end was not told yet."""
        for number in range(threads):
            name = f"background-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def start(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[TuftError], None]
    ) -> None:
        """Run `job` in a thread; then `poll` calls `done` with its value, or `failed`."""
        self.pending += 1
        self._todo.put(_Task(job, done, failed))

    def poll(self) -> None:
        """Tell what ended since the last call, and start again what is due."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._todo.put(heapq.heappop(self._later)[2])
        while True:
            try:
                job = self._ended.get_nowait()
            except queue.Empty:
                return
            if isinstance(job.error, Unavailable):
                delay = job.next_delay()
                log.warning("trying again in %.1f s: %s", delay, job.error.message)
                heapq.heappush(self._later, (now + delay, next(self._numbers), job))
                continue
            self.pending -= 1
            job.tell()

    def _work(self) -> None:
        while True:
            job = self._todo.get()
            job.run()
            self._ended.put(job)


class _Job(ABC):
    """What the queue needs of a task, whatever its type."""

    error: Exception | None = None
    _delay = _BACKOFF_FIRST_S

    def next_delay(self) -> float:
        delay, self._delay = self._delay, min(2 * self._delay, _BACKOFF_MAX_S)
        return delay

    @abstractmethod
    def run(self) -> None:
        """Do it, in a thread of the pool."""

    @abstractmethod
    def tell(self) -> None:
        """Tell its end, on the caller's thread."""


class _Task(_Job, Generic[T]):
    def __init__(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[TuftError], None]
    ) -> None:
        self._job = job
        self._done = done
        self._failed = failed
        self._values: list[T] = []

    def run(self) -> None:
        self.error = None
        try:
            self._values = [self._job()]
        except Exception as error:  # noqa: BLE001  # not swallowed: `poll` tells or raises it
            self.error = error

    def tell(self) -> None:
        if self.error is None:
            self._done(self._values[0])
        elif isinstance(self.error, TuftError):
            self._failed(self.error)
        else:
            raise self.error
