"""A thread for libraries that insist on always the same one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread:
    """Calls one after the other. Unlike an executor's, it does not keep the process from ending
    where a call never comes back."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="browser", daemon=True).start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Its result, or what it raises."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        return future

    def end(self) -> None:
        """After the calls that wait."""
        self._calls.put(None)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            future, function = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  # it is for whoever waits
                future.set_exception(error)
