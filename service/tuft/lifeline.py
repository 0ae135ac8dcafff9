"""A child process that ends with its parent, however the parent ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded here, before any fork: loading a library between fork and exec could deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def lifeline() -> Callable[[], None]:
    """A `preexec_fn` for children: SIGTERM when the thread that starts them ends, even by kill -9.

    Linux only; elsewhere nothing happens, and children of a killed parent stay.
    """
    parent = os.getpid()

    def tie() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            # The parent may have been killed before the call above: nothing would tell us.
            if os.getppid() != parent:
                os._exit(1)

    return tie
