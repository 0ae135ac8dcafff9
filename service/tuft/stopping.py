"""A request to stop, as signals bring it: time to finish what has begun, and an end in any case."""

from __future__ import annotations

import os
import signal
import threading
import time

_ORPHANS_GRACE_S = 3.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """SIGTERM and SIGINT ask this process to stop. Make one, in the main thread, first of all.

    Until `graceful` is called, a signal ends the process at once. Afterwards it sets
    `requested`, and the process is ended once the time for it is over. Where the signal came
    because the parent is gone (`tuft.lifeline`), that is soon.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._grace_s: float | None = None
        self._until = 0.0
        self.requested = threading.Event()
        self.orphaned = False
        """Whether the parent is gone: nobody waits for this process any more."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Python handlers run when the main thread comes back from C, which may take seconds in
        # the middle of a computation. What they write to a pipe is there at once.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, False)
        threading.Thread(target=self._watch, args=(reader,), name="stop", daemon=True).start()

    @property
    def deadline(self) -> float:
        """When work that goes on after the request has to be over (of the monotonic clock)."""
        return self._until - min(1.0, (self._grace_s or 0.0) / 5)

    def graceful(self, grace_s: float) -> None:
        """There is something to finish now, for which a stop leaves `grace_s` seconds."""
        self._grace_s = grace_s

    def _watch(self, reader: int) -> None:
        while not set(os.read(reader, 64)) & set(_SIGNALS):
            pass  # another signal that Python handles
        if self._grace_s is None:
            os._exit(0)
        self.orphaned = os.getppid() != self._parent
        grace_s = min(self._grace_s, _ORPHANS_GRACE_S) if self.orphaned else self._grace_s
        self._until = time.monotonic() + grace_s
        self.requested.set()
        time.sleep(grace_s)
        os._exit(1)
