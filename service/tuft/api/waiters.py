"""Wakes the long polls of this process when results arrive, and hands them what arrived.

One background thread reads the store's stream of finished request ids, fetches those that
somebody waits for, and wakes the asyncio events that handlers registered. It is an accelerator
only: whoever waits looks into the store every few seconds, so that a missed event costs seconds
and never a result.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tuft.contracts.operations import FutureRecord
from tuft.errors import Unavailable
from tuft.store import Accepted
from tuft.store.events import Events
from tuft.store.futures import Futures

_log = logging.getLogger(__name__)
_RESULTS = "results"
_BLOCK_MS = 1000
_AWAY_S = 0.5
_FETCH_AT_ONCE = 64
_MOST_EXPECTED = 50_000
"""Beyond, all are forgotten: those that are polled for are then looked up first."""

Found = tuple[FutureRecord, bytes | None]
"""A finished future and its inline body."""


@dataclass(eq=False)
class Watch:
    """A poll that is held: `event` says that there is news, `found` is what came with it."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    found: Found | None = None


class ResultWaiters:
    """`start()` and `watch()` belong to the event loop; the others may come from anywhere."""

    def __init__(self, events: Events, futures: Futures) -> None:
        self._events = events
        self._futures = futures
        self._waiting: dict[str, set[Watch]] = {}
        self._expected: dict[str, str] = {}
        self._listening = False
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
        return sum(len(watches) for watches in self._waiting.values())

    def start(self) -> None:
        """Start listening, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._listen, name="results", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wake everyone; from now on `watch` yields events that are set already."""
        self._stopping.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, list(self._waiting), {})

    @contextmanager
    def watch(self, request_id: str) -> Iterator[Watch]:
        """A poll whose event is set when `request_id` may be done."""
        watch = Watch()
        if self.stopping:
            watch.event.set()
        self._waiting.setdefault(request_id, set()).add(watch)
        try:
            yield watch
        finally:
            others = self._waiting[request_id]
            others.discard(watch)
            if not others:
                del self._waiting[request_id]

    def expect(self, future: FutureRecord, accept: Callable[[], Accepted]) -> Accepted:
        """Have a request accepted, and remember that its result is going to be announced."""
        request_id = future.request_id
        if len(self._expected) >= _MOST_EXPECTED:
            self._expected.clear()
        if self._listening:
            self._expected[request_id] = future.tenant
        try:
            accepted = accept()
        except BaseException:
            # Whatever it was, also an interruption: nothing of this request may be expected.
            self._expected.pop(request_id, None)
            raise
        if accepted.duplicate:
            # Its result may have been announced long ago.
            self._expected.pop(request_id, None)
        return accepted

    def expects(self, request_id: str, tenant: str) -> bool:
        """Whether the tenant's request was accepted here and not announced since.

        For a watch that was registered before, there is nothing to see until its event is set.
        """
        return self._listening and self._expected.get(request_id) == tenant

    def _wake(self, request_ids: Sequence[str], found: Mapping[str, Found]) -> None:
        for request_id in request_ids:
            for watch in self._waiting.get(request_id, ()):
                watch.found = found.get(request_id)
                watch.event.set()

    def _listen(self) -> None:
        last_id: str | None = None
        away = False
        while not self.stopping:
            try:
                if last_id is None:
                    last_id = self._events.latest(_RESULTS)
                self._listening = True
                last_id, request_ids = self._events.results(last_id, _BLOCK_MS)
            except Unavailable as error:
                self._listening = False
                if not away:
                    _log.warning("the store is away: %s", error)
                away = True
                self._stopping.wait(_AWAY_S)
                continue
            if away:
                _log.warning("the store is back")
                away = False
            self._announce(request_ids)

    def _announce(self, request_ids: Sequence[str]) -> None:
        assert self._loop is not None
        for request_id in request_ids:
            self._expected.pop(request_id, None)
        # In this order: who comes in between finds that it is not expected, and looks.
        watched = [name for name in request_ids if name in self._waiting]
        for start in range(0, len(watched), _FETCH_AT_ONCE):
            names = watched[start : start + _FETCH_AT_ONCE]
            try:
                found = self._futures.finished(names)
            except Unavailable:
                found = {}  # they look themselves
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake, names, found)
