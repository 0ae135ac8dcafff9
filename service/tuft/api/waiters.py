"""Wakes the long polls of this process when results arrive.

One background thread reads the store's stream of finished request ids and wakes the asyncio
events that handlers registered. It is an accelerator only: whoever waits looks into the
store after registering and every few seconds, so that a missed event costs seconds and never
a result.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tuft.errors import Unavailable
from tuft.store.events import Events

_log = logging.getLogger(__name__)
_RESULTS = "results"
_BLOCK_MS = 1000
_AWAY_S = 0.5


class ResultWaiters:
    """`start()` and `watch()` belong to the event loop; `stop()` may come from anywhere."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """The process is going down: answer the polls that are held."""
        return self._stopping.is_set()

    @property
    def watching(self) -> int:
        """How many polls are held."""
        return sum(len(events) for events in self._waiting.values())

    def start(self) -> None:
        """Start listening, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, name="results", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wake everyone; from now on `watch` yields events that are set already."""
        self._stopping.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, list(self._waiting))

    @contextmanager
    def watch(self, request_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when `request_id` may be done."""
        event = asyncio.Event()
        if self.stopping:
            event.set()
        self._waiting.setdefault(request_id, set()).add(event)
        try:
            yield event
        finally:
            others = self._waiting[request_id]
            others.discard(event)
            if not others:
                del self._waiting[request_id]

    def _wake(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            for event in self._waiting.get(request_id, ()):
                event.set()

    def _listen(self) -> None:
        assert self._loop is not None
        last_id: str | None = None
        away = False
        while not self.stopping:
            try:
                if last_id is None:
                    last_id = self._events.latest(_RESULTS)
                last_id, request_ids = self._events.results(last_id, _BLOCK_MS)
            except Unavailable as error:
                if not away:
                    _log.warning("the store is away: %s", error)
                away = True
                self._stopping.wait(_AWAY_S)
                continue
            if away:
                _log.warning("the store is back")
                away = False
            if request_ids and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake, request_ids)
