"""When a micro-batch waits for runs whose next operation is about to come.

A client that waits for its result and then sends the next operation has none pending for as long
as it takes to say so. Beside a tenant with endless work it would find a micro-batch just begun
every time, however small its share; and clients that step in time with each other would split
into those who got into the micro-batch and those who just missed it. Waiting for some
milliseconds costs no CPU time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_LONGEST_S = 0.03
_SHARE = 0.25
_MARGIN = 2.0
"""A run is waited for up to so many times as long as it took before."""


@dataclass(frozen=True)
class _Expected:
    tenant: str
    since: float
    until: float


class Patience:
    """What it learns of runs: how soon each came back. Times are those of one clock, seconds."""

    def __init__(self) -> None:
        self._took: dict[str, float] = {}
        self._away: dict[str, _Expected] = {}

    def went(self, run_id: str, tenant: str, now: float) -> None:
        """The run has nothing to do any more."""
        took = self._took.get(run_id, 0.0)
        self._away[run_id] = _Expected(tenant, now, now + _MARGIN * took)

    def came(self, run_id: str, now: float) -> None:
        """It has."""
        expected = self._away.pop(run_id, None)
        if expected is None:
            return
        took = now - expected.since
        if took < _LONGEST_S:
            before = self._took.get(run_id, took)
            self._took[run_id] = (before + took) / 2
        else:
            self._took.pop(run_id, None)

    def wait_s(self, now: float, matters: Callable[[str], bool]) -> float:
        """Seconds that are worth waiting for a run of a tenant that `matters`; 0 for none."""
        for run_id in [r for r, e in self._away.items() if e.until <= now - _LONGEST_S]:
            # It did not come: it has to come soon once more before it is waited for again.
            del self._away[run_id]
            self._took.pop(run_id, None)
        ends = [e.until for e in self._away.values() if e.until > now and matters(e.tenant)]
        return max(ends) - now if ends else 0.0


def longest_wait_s(micro_batch_s: float) -> float:
    """What a micro-batch may wait, by how long the one before took."""
    return min(_LONGEST_S, _SHARE * micro_batch_s)
