"""From a transition to the tensors of one Tinker datum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuft_components.rl.masks import over_targets


@dataclass(frozen=True)
class DatumArrays:
    """All of length N = prompt + completion - 1; input position i predicts target i."""

    input_tokens: npt.NDArray[np.int32]
    target_tokens: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    advantages: npt.NDArray[np.float32]


def assemble(
    prompt_tokens: Sequence[int],
    completion_tokens: Sequence[int],
    logprobs: Sequence[float],
    advantages: Sequence[float],
    mask: Sequence[float],
) -> DatumArrays:
    """Shift by one; log-probabilities and advantages are 0 over the prompt.

    Args:
        prompt_tokens: at least one. completion_tokens: [T], at least one.
        logprobs, advantages, mask: [T]; an advantage counts where its mask is not 0.

    Raises:
        ValueError: a list is empty or has another length.
    """
    if not prompt_tokens or not completion_tokens:
        raise ValueError("prompt and completion have at least one token each")
    if not len(completion_tokens) == len(logprobs) == len(advantages) == len(mask):
        raise ValueError("completion tokens, logprobs, advantages and mask have equal lengths")
    tokens = np.asarray([*prompt_tokens, *completion_tokens], dtype=np.int64)
    weighted = np.asarray(advantages, dtype=np.float32) * np.asarray(mask, dtype=np.float32)
    return DatumArrays(
        input_tokens=tokens[:-1].astype(np.int32),
        target_tokens=tokens[1:],
        logprobs=over_targets(len(prompt_tokens), np.asarray(logprobs, dtype=np.float32)),
        advantages=over_targets(len(prompt_tokens), weighted),
    )
