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


def over_targets(prompt_length: int, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Per-token values of a completion, placed over the targets of prompt + completion.

    Position i of the input predicts token i + 1, so that of `prompt_length + T - 1` targets the
    first `prompt_length - 1` belong to the prompt (0 there), and the last T to the completion.
    """
    if prompt_length < 1:
        raise ValueError("a prompt has at least one token: the first token predicts nothing")
    return np.concatenate([np.zeros(prompt_length - 1, dtype=np.float32), values])
