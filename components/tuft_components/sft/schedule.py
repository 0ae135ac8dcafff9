"""Learning rates over the steps of a fine-tuning."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "constant", "cosine"]


def learning_rate(step: int, *, peak: float, total: int, warmup: int, schedule: Schedule) -> float:
    """Of step `step` (from 0) of `total`.

    The first `warmup` steps rise in equal parts to `peak`, none of them at 0. After that
    `constant` stays there, and `linear` and `cosine` fall so that the step after the last one
    would be at 0. Source of the cosine: SGDR, arXiv 1608.03983, eq. 5, without restarts.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "linear":
        return peak * (1 - done)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak
