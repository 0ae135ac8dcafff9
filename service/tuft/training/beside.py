"""Jobs beside the trainer's work, one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Beside:
    """A thread that does jobs in the order of their coming, for as long as the process lives.

    It keeps no process alive: a trainer that lost its lease, or another rank, ends at once,
    whatever an upload waits for. (The threads of an Executor are waited for.)
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def start(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done; the future has its value, or what it raised."""
        future: Future[Any] = Future()

        def do() -> None:
            try:
                value = job()
            except Exception as error:  # noqa: BLE001  # not swallowed: the future raises it
                future.set_exception(error)
            else:
                future.set_result(value)

        self._jobs.put(do)
        return future

    def _work(self) -> None:
        while True:
            self._jobs.get()()
