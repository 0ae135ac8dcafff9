"""Rewards of turns, shaped: each function takes the values of one episode's turns, [T] or what it
says, and returns float64 [T] to add to its rewards, or the rewards themselves made anew.

None of them needs the policy, so that what it is far from (a KL term) is no part of a reward here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft_components.rl.advantages import Doubles


def potential_shaping(potentials: npt.NDArray[Any], gamma: float, *, start: float = 0.0) -> Doubles:
    """To add: gamma * Phi(after the turn) - Phi(before it), where `potentials` [T] are after each.

    Which policy is best stays as it was. That holds only where the last potential counts as 0,
    however good the state is that the episode ended in. `start` is equal in all of a group, so
    that it drops out of advantages within groups.

    Sources: Ng, Harada and Russell, Policy invariance under reward transformations, ICML 1999;
    the last potential: Grzes, Reward shaping in episodic reinforcement learning, AAMAS 2017.
    """
    values = potentials.astype(np.float64)
    before = np.concatenate([[start], values[:-1]])
    after = np.concatenate([values[:-1], [0.0]])
    return np.asarray(gamma * after - before, dtype=np.float64)


def overlong_penalty(lengths: npt.NDArray[Any], longest: int, soft: int) -> Doubles:
    """To add: 0 up to `longest - soft` tokens, falling to -1 at `longest`, and -1 beyond.

    Source: soft overlong punishment in DAPO, arXiv 2503.14476, §3.4, equation 13.

    Raises:
        ValueError: not 0 < soft <= longest.
    """
    if not 0 < soft <= longest:
        raise ValueError(f"soft is {soft} and longest {longest}: 0 < soft <= longest")
    return np.clip((longest - soft - lengths.astype(np.float64)) / soft, -1.0, 0.0)


def error_penalty(wrong: npt.NDArray[np.bool_], penalty: float) -> Doubles:
    """To add: -penalty for each turn whose action was wrong in form (did not parse, say).

    Source: the penalty for invalid actions in GiGPO, arXiv 2505.10978, §5; a reward for the form
    beside that for the answer is in DeepSeek-R1, arXiv 2501.12948, §2.2.2.
    """
    return np.where(wrong, -float(penalty), 0.0)


def clipped(rewards: npt.NDArray[Any], low: float, high: float) -> Doubles:
    """Each reward, at least `low` and at most `high`.

    Source: reward clipping in DQN, Mnih et al., Nature 518, 2015, methods.

    Raises:
        ValueError: low is above high.
    """
    if low > high:
        raise ValueError(f"clip from {low} to {high}: give the lower bound first")
    return np.clip(rewards.astype(np.float64), low, high)


def scaled(rewards: Sequence[npt.NDArray[Any]]) -> list[Doubles]:
    """All episodes' rewards, divided by the standard deviation of the episodes' sums.

    Nothing is subtracted: a reward of 0 stays 0, whatever the number of turns. Where all sums are
    equal, rewards stay as they are.

    Source: reward scaling in Engstrom et al., Implementation Matters in Deep Policy Gradients,
    arXiv 2005.12729, §3 (there over the returns seen so far, here over the batch).
    """
    sums = np.asarray([float(each.astype(np.float64).sum()) for each in rewards])
    spread = float(sums.std()) if len(sums) and sums.min() != sums.max() else 1.0
    return [each.astype(np.float64) / spread for each in rewards]
