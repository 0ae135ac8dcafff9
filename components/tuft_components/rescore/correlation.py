"""How alike two rewards order the same episodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def pearson(x: Doubles, y: Doubles) -> float | None:
    """Linear correlation, from -1 to 1; None where one side is constant."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    # Each is scaled on its own: tiny rewards must not underflow in a product.
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def spearman(x: Doubles, y: Doubles) -> float | None:
    """Pearson's of the ranks: whether they order alike, whatever their scales."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Doubles) -> Doubles:
    """From 1 on; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
