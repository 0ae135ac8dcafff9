"""Waiting for the store and the object store without holding up other runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from tuft.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_BEFORE_WORK_S = 1.0


def until_available(what: str, do: Callable[[], T]) -> Generator[float, None, T]:
    """Try `do` until it does not raise Unavailable, yielding how long to pause in between.

    `do` must be something that may be repeated. Other errors are raised.
    """
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return do()
        except Unavailable as error:
            log.warning("%s waits: %s", what, error.message)
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def patiently(do: Callable[[], T]) -> T:
    """Try `do` until it does not raise Unavailable, where there is nothing else to do yet."""
    while True:
        try:
            return do()
        except Unavailable as error:
            log.warning("the store is away: %s", error.message)
            time.sleep(_BEFORE_WORK_S)
