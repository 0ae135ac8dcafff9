"""How a worker comes to lead its group, and stays its leader."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tuft.errors import LeaseLost, Unavailable
from tuft.slots import Slot
from tuft.store.values import Lease
from tuft.store.workers import Workers

log = logging.getLogger(__name__)

_LOOK_AT_SLOT_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Tenure:
    """A worker's time as the leader of its group: it waits for it, keeps it, and ends it.

    A leader that is not heard of for `ttl_s` seconds is replaced by one that waits. Where the
    workers of a machine share a `slot`, a successor there needs not wait: the slot tells it that
    the leader has ended.

    Args:
        holder: who this worker is; no other one, nor its own life before, has that name.
    """

    def __init__(
        self, workers: Workers, group: str, holder: str, ttl_s: float, slot: Slot | None
    ) -> None:
        self._workers = workers
        self._group = group
        self._holder = holder
        self._ttl_s = ttl_s
        self._slot = slot
        self._lease: Lease | None = None
        self._ended = threading.Event()
        self.lost: LeaseLost | None = None
        """Set where another worker took over."""

    def begin(self, stop: threading.Event, waiting: Callable[[], None]) -> Lease | None:
        """Wait until this worker may lead. None where `stop` is set before.

        `waiting` is called once, where another one leads now.
        """
        told = False
        while not stop.is_set():
            lease = self._try()
            if lease is not None:
                self._lease = lease
                return lease
            if not told:
                waiting()
                told = True
            self._pause(stop)
        return None

    def keep(self, on_lost: Callable[[], None]) -> None:
        """Stay the leader from now on, in a thread. `on_lost` is called once another one is."""
        keeper = threading.Thread(target=self._renew, args=(on_lost,), name="lease", daemon=True)
        keeper.start()

    def end(self) -> None:
        """Let others lead. Where they can't be told, they find out in `ttl_s` seconds."""
        self._ended.set()
        if self._lease is not None and self.lost is None:
            try:
                self._workers.release(self._lease, self._holder)
            except Unavailable as error:
                log.warning("the lease is not released: %s", error.message)
        if self._slot is not None:
            self._slot.release()

    def _try(self) -> Lease | None:
        slot = self._slot if self._slot is not None and self._slot.take() else None
        replaces = None if slot is None else slot.previous
        try:
            lease = self._workers.acquire(self._group, self._holder, self._ttl_s, replaces)
        except Unavailable as error:
            log.warning("the lease can't be taken: %s", error.message)
            lease = None
        if slot is not None and lease is None:
            # Somebody leads without the slot: it is theirs.
            slot.release()
        elif slot is not None:
            slot.sign()
        return lease

    def _pause(self, stop: threading.Event) -> None:
        """Until it is worth another try: some time has gone by, or the slot has become free."""
        until = time.monotonic() + min(_LONGEST_PAUSE_S, self._ttl_s / 5)
        # A slot that is free already tells nothing new: this worker has just tried with it.
        was_taken = self._slot is not None and not self._is_free(self._slot)
        while time.monotonic() < until and not stop.wait(_LOOK_AT_SLOT_S):
            if was_taken and self._slot is not None and self._is_free(self._slot):
                return

    @staticmethod
    def _is_free(slot: Slot) -> bool:
        if not slot.take():
            return False
        slot.release()
        return True

    def _renew(self, on_lost: Callable[[], None]) -> None:
        assert self._lease is not None
        while not self._ended.wait(self._ttl_s / 3):
            try:
                self._workers.renew(self._lease, self._holder, self._ttl_s)
                # Whoever took over from a worker that is stopped gets the slot when that one ends.
                if self._slot is not None and not self._slot.held and self._slot.take():
                    self._slot.sign()
            except Unavailable as error:
                log.warning("the lease is not renewed: %s", error.message)
            except LeaseLost as error:
                log.warning("%s", error.message)
                self.lost = error
                on_lost()
                return
