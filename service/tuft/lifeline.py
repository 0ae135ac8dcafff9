"""A child process that ends with its parent, however the parent ended."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded here, before any fork: loading a library between fork and exec could deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """As `preexec_fn` of a child: SIGTERM when the thread that started it ends, even by kill -9.

    Linux only; elsewhere nothing happens, and children of a killed parent stay.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
