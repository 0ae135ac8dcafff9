"""Which tokens are trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def completion_mask(
    length: int, *, truncated: bool, drop_truncated: bool
) -> npt.NDArray[np.float32]:
    """float32 [length] over a completion's tokens: 1 trains on it.

    All ones; all zeros for a completion that was cut off at the token limit, where
    `drop_truncated` asks for that. Source: overlong filtering in DAPO, arXiv 2503.14476, §3.4.
    """
    value = 0.0 if truncated and drop_truncated else 1.0
    return np.full(length, value, dtype=np.float32)
