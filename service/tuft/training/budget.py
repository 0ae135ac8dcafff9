"""How many tokens one forward and backward pass takes where the configuration does not say.

On CPU about 128 tokens are enough to be as fast as any number for a model of 135 million
parameters, and a micro-batch is what a light tenant waits for; smaller models need more tokens
for the same work, up to about 1024, from where on a tiny one gains nothing more:

    tokens = 128 * 135e6 / parameters, a power of two from 128 to 1024

On a GPU it is 8192. It depends on nothing else, so that a replay packs as the first time did.
"""

from __future__ import annotations

import math

_WORK = 128 * 135e6
_LEAST, _MOST = 128, 1024
_GPU = 8192


def automatic_budget(parameters: int, device_type: str) -> int:
    """Tokens of a micro-batch of one rank, for a model of so many parameters."""
    if device_type != "cpu":
        return _GPU
    tokens = 2 ** round(math.log2(_WORK / max(parameters, 1)))
    return int(min(max(tokens, _LEAST), _MOST))
