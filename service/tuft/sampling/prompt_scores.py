"""Logprobs of a prompt's own tokens, at temperature 1, filled in as the prompt is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tuft.sampling.distributions import EMPTY_LOGPROB, EMPTY_TOKEN, top_of

# Logits in memory at a time, in elements: 64 MB of float32.
_LOGITS_AT_A_TIME = 16 * 1024 * 1024


class PromptScores:
    """`logprobs` float32 [length]: of each token after those before it; NaN for the first.

    `topk`: the k most likely tokens at each place, ids int32 [length, k] and logprobs float32
    [length, k]; nothing (empty cells) for the first. None where k is 0.
    """

    def __init__(self, prompt: Sequence[int], logprobs: bool, k: int) -> None:
        self._prompt = prompt
        self.logprobs: npt.NDArray[np.float32] | None = None
        self.topk: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None = None
        if logprobs:
            self.logprobs = np.full(len(prompt), np.nan, dtype=np.float32)
        if k > 0:
            shape = (len(prompt), k)
            self.topk = (
                np.full(shape, EMPTY_TOKEN, dtype=np.int32),
                np.full(shape, EMPTY_LOGPROB, dtype=np.float32),
            )

    def add(self, position: int, logits: Tensor) -> None:
        """`logits` float32 [n, vocab] of positions position, position + 1, … of the prompt.

        Those of the last position say nothing about the prompt and may be there.
        """
        targets = self._prompt[position + 1 : position + 1 + len(logits)]
        if not targets:
            return
        distribution = torch.log_softmax(logits[: len(targets)], dim=-1)
        places = slice(position + 1, position + 1 + len(targets))
        if self.logprobs is not None:
            index = torch.tensor(targets, device=logits.device)[:, None]
            self.logprobs[places] = distribution.gather(1, index)[:, 0].cpu().numpy()
        if self.topk is not None:
            ids, values = top_of(distribution, self.topk[0].shape[1])
            self.topk[0][places] = ids.cpu().numpy()
            self.topk[1][places] = values.cpu().numpy()


def positions_at_a_time(rows: int, vocab: int) -> int:
    """How many positions of `rows` prompts to compute logits for in one go."""
    return max(1, _LOGITS_AT_A_TIME // (rows * vocab))
