"""How many tokens one forward and backward pass takes where the configuration does not say.

On CPU about 128 tokens are enough to be as fast as any number for a model of 135 million
parameters, and a micro-batch is what a light tenant waits for; smaller models need more tokens
for the same work, up to about 1024, from where on a tiny one gains nothing more:

    tokens = 128 * 135e6 / parameters, a power of two from 128 to 1024

On a GPU it is 8192. A run that has the ranks to itself makes nobody wait, and gets four times as
much on a CPU: that is where the last tenth of a large operation's speed is. Nothing else counts,
so that a replay of that run packs as the first time did.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

_WORK = 128 * 135e6
_LEAST, _MOST = 128, 1024
_GPU = 8192
_LONE_FACTOR = 4
_RECENT_S = 30.0


@dataclass
class Budget:
    """Tokens of a rank's micro-batch: `shared`, or `lone` while only one run was at work lately."""

    shared: int
    lone: int
    _seen: dict[str, float] = field(default_factory=dict)

    @classmethod
    def automatic(cls, parameters: int, device_type: str) -> Budget:
        """For a model of so many parameters."""
        shared = automatic_budget(parameters, device_type)
        return cls(shared, shared * _LONE_FACTOR if device_type == "cpu" else shared)

    def tokens(self, run_ids: Collection[str], now: float) -> int:
        """For the next micro-batch, where these runs have rows; `now` in seconds of any clock."""
        self._seen |= dict.fromkeys(run_ids, now)
        for run_id in [each for each, seen in self._seen.items() if seen < now - _RECENT_S]:
            del self._seen[run_id]
        return self.lone if len(self._seen) == 1 else self.shared


def automatic_budget(parameters: int, device_type: str) -> int:
    """Tokens of a micro-batch of one rank, for a model of so many parameters."""
    if device_type != "cpu":
        return _GPU
    tokens = 2 ** round(math.log2(_WORK / max(parameters, 1)))
    return int(min(max(tokens, _LEAST), _MOST))
