"""Removes from the object store what has come to its end, in the background."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from tuft.api.catalog import Catalog
from tuft.api.garbage import Garbage
from tuft.config import ServiceConfig
from tuft.contracts.records import Disposable
from tuft.errors import NotFound, TuftError
from tuft.objects import ObjectStore
from tuft.store import Store

_log = logging.getLogger(__name__)
_EVERY_S = 30.0
_AT_ONCE = 100


class Housekeeping:
    """Two threads a process; several processes may do the same, since removing is idempotent."""

    def __init__(
        self, config: ServiceConfig, store: Store, objects: ObjectStore, catalog: Catalog
    ) -> None:
        self._store = store
        self._objects = objects
        self._catalog = catalog
        self._garbage = Garbage(config, store, objects, catalog)
        self._limits = config.limits
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="housekeeping", daemon=True).start()
        threading.Thread(target=self._collect, name="garbage", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def sweep(self, now: float) -> int:
        """Remove what is due at `now`, in seconds since the epoch; returns how many went.

        Raises:
            Unavailable: store or object store are away; what is left stays entered.
        """
        removed = 0
        for thing in self._store.disposal.due(now, _AT_ONCE):
            end = self._end_of(thing)
            if end > now:
                self._store.disposal.schedule(thing, end)
                continue
            if thing.folder:
                self._objects.delete_prefix(thing.key)
            else:
                self._objects.delete(thing.key)
            self._store.disposal.drop(thing)
            removed += 1
        return removed

    def _end_of(self, thing: Disposable) -> float:
        if thing.session_id is None:
            return 0.0
        seen = self._store.sessions.last_seen(thing.session_id) or 0.0
        # A process that attached to the run has a session of its own.
        with contextlib.suppress(NotFound):
            run_id = thing.key.split("/")[1]
            seen = max(seen, self._store.runs.status(run_id).last_request_at)
        return seen + self._limits.policy_ttl_s if seen else 0.0

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            try:
                while self.sweep(time.time()) == _AT_ONCE:
                    pass
                self._catalog.sweep(time.time())
            except TuftError as error:
                _log.warning("housekeeping, will try again: %s", error.message)

    def _collect(self) -> None:
        marked, pause = False, 0.0
        while not self._stopping.wait(pause):
            pause = _EVERY_S
            try:
                if marked:
                    self._garbage.collect(time.time())
                else:
                    # Before another service comes to this object store.
                    self._garbage.mark(time.time())
                marked, pause = True, self._garbage.every_s
            except TuftError as error:
                _log.warning("collecting garbage, will try again: %s", error.message)
