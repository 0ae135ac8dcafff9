"""What each turn of an episode led to, and how much better that was than what others did.

With `credit=turn` an action is not praised for what was rewarded before it. Equal to the credit of
whole episodes where these have one turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft_components.rl.advantages import Doubles, Estimator, Floats


def returns_to_go(rewards: npt.NDArray[Any], gamma: float) -> Doubles:
    """float64 [T]: G_t = r_t + gamma * G_(t+1), from the rewards [T] of one episode.

    Source: REINFORCE with the return that follows an action, Sutton and Barto, Reinforcement
    Learning, 2nd edition, §13.3.
    """
    returns = np.zeros(len(rewards), dtype=np.float64)
    after = 0.0
    for turn in reversed(range(len(rewards))):
        after = float(rewards[turn]) + gamma * after
        returns[turn] = after
    return returns


def turn_advantages(
    rewards: Sequence[npt.NDArray[Any]],
    groups: npt.NDArray[Any],
    gamma: float,
    estimate: Estimator,
) -> list[Floats]:
    """Advantages [T_i] of each episode's turns, from their rewards [T_i].

    Turn t is compared with turn t of the others, by the estimator: within the group, or within the
    batch where the estimator does that. An episode that has ended goes on with returns of 0, so
    that one which alone plays on is still compared with something.

    Sources: advantages of turns within a group, arXiv 2505.11821, §4 (there of two turns); ended
    episodes as absorbing states with rewards of 0, Sutton and Barto, §3.4.
    """
    returns = [returns_to_go(each, gamma) for each in rewards]
    turns = max((len(each) for each in returns), default=0)
    table = np.zeros((len(returns), turns), dtype=np.float64)
    for row, each in zip(table, returns, strict=True):
        row[: len(each)] = each
    columns = [estimate(table[:, turn], groups) for turn in range(turns)]
    return [
        np.asarray([columns[turn][number] for turn in range(len(each))], dtype=np.float32)
        for number, each in enumerate(returns)
    ]
