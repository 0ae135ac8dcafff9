"""How alike two rewards order the same episodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def pearson(x: Doubles, y: Doubles) -> float | None:
    """Linear correlation, from -1 to 1; None where one side is constant."""
    if x.min() == x.max() or y.min() == y.max():
        return None
    x, y = _centred(x), _centred(y)
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1.0, 1.0))


def _centred(values: Doubles) -> Doubles:
    """Around 0 and of size 1, so that no square overflows or vanishes."""
    values = values / np.abs(values).max()
    values = values - values.mean()
    return np.asarray(values / np.abs(values).max(), dtype=np.float64)


def spearman(x: Doubles, y: Doubles) -> float | None:
    """Pearson's of the ranks: whether they order alike, whatever their scales."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Doubles) -> Doubles:
    """From 1 on; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
