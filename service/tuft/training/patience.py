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
_LEAST_S = 0.01
_SHARE = 0.25
_MARGIN = 2.0
"""A run is waited for up to so many times as long as it took before."""
_FORGOTTEN_S = 60.0


@dataclass(frozen=True)
class _Expected:
    tenant: str
    since: float
    until: float


class Patience:
    """What it learns of runs: how soon each came back. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._took: dict[str, float] = {}
        self._away: dict[str, _Expected] = {}

    def went(self, run_id: str, tenant: str, now: float) -> None:
        """The run has nothing to do any more."""
        took = self._took.get(run_id)
        wait = 0.0 if took is None else max(_LEAST_S, _MARGIN * took)
        self._away[run_id] = _Expected(tenant, now, now + wait)

    def came(self, run_id: str, accepted_at: float) -> None:
        """It has, since `accepted_at`: that counts, and not when it was seen here.

        Behind a long micro-batch everything is seen late, and a run that was missed once would
        never be waited for again.
        """
        expected = self._away.pop(run_id, None)
        if expected is None:
            return
        took = max(0.0, accepted_at - expected.since)
        if took < _LONGEST_S:
            before = self._took.get(run_id, took)
            self._took[run_id] = (before + took) / 2
        else:
            self._took.pop(run_id, None)

    def wait_s(self, now: float, matters: Callable[[str], bool]) -> float:
        """Seconds that are worth waiting for a run of a tenant that `matters`; 0 for none."""
        for run_id in [r for r, e in self._away.items() if e.since < now - _FORGOTTEN_S]:
            del self._away[run_id]
            self._took.pop(run_id, None)
        ends = [e.until for e in self._away.values() if e.until > now and matters(e.tenant)]
        return max(ends) - now if ends else 0.0


def longest_wait_s(micro_batch_s: float) -> float:
    """What a micro-batch may wait, by how long the one before took."""
    return min(_LONGEST_S, _SHARE * micro_batch_s)
