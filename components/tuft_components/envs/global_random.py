"""For libraries that draw from Python's and numpy's global generators.

Episodes are played at once, in threads: draws of one would change the others'. So calls into such
a library take turns, each with the generators as its own episode left them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_taking_turns = threading.Lock()


class GlobalRandom:
    """The global generators, as one instance of an environment sees them."""

    def __init__(self) -> None:
        self._states: Any = None
        self.seed(0)

    def seed(self, number: int) -> None:
        """Begin anew: for each task."""
        self._states = random.Random(number).getstate(), np.random.RandomState(number).get_state()

    @contextmanager
    def own(self) -> Iterator[None]:
        """In the block the generators are its own; behind it, they are as they were."""
        with _taking_turns:
            before = _states()
            _set(self._states)
            try:
                yield
            finally:
                self._states = _states()
                _set(before)


def _states() -> Any:
    return random.getstate(), np.random.get_state()  # noqa: NPY002  # that is what they draw from


def _set(states: Any) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
