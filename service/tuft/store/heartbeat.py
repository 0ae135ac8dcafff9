"""Tells the store that this worker lives, beside whatever it does."""

from __future__ import annotations

import logging
import threading

from tuft.errors import Unavailable
from tuft.store.store import Store
from tuft.store.values import WorkerState

log = logging.getLogger(__name__)

_EVERY_S = 5.0


class Heartbeat:
    """A daemon thread that reports the worker's state every few seconds, and at each change.

    `worker_id` is the same after a restart: a worker that loads again replaces the "ready" of
    its life before.

    Raises:
        ConfigError: the store can't be used. (One that is away may come back.)
    """

    def __init__(self, store: Store, worker_id: str, role: str, base_model: str) -> None:
        self._store = store
        self._worker_id = worker_id
        self._role = role
        self._base_model = base_model
        self._state: WorkerState = "loading"
        self._changed = threading.Event()
        try:
            # Here and not in the thread, where nobody would hear of it.
            store.ping()
        except Unavailable as error:
            log.warning("%s", error.message)
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def standby(self) -> None:
        """From now on the worker waits to take over from another one."""
        self._tell("standby")

    def ready(self) -> None:
        """From now on the worker does its work."""
        self._tell("ready")

    def _tell(self, state: WorkerState) -> None:
        if state != self._state:
            self._state = state
            self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                self._store.workers.report(
                    self._worker_id, self._role, self._base_model, self._state
                )
            except Unavailable as error:
                log.warning("no heartbeat: %s", error.message)
            self._changed.wait(_EVERY_S)
