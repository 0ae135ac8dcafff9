"""Reward functions by name: a registered one, or `package.module:function`.

A reward function takes a whole `Trajectory` and returns a float. `env` is what the environment
itself said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tuft_components.errors import BadData
from tuft_components.names import resolve
from tuft_components.trajectories import Trajectory

RewardFunction = Callable[[Trajectory], float]

REWARDS: dict[str, str] = {
    "env": "tuft_components.rewards.env:env_reward",
    "exact_match": "tuft_components.rewards.exact_match:exact_match",
}


def reward_function(name: str) -> RewardFunction:
    """Raises:
    BadConfiguration: no such reward.
    """
    return resolve(name, REWARDS, "reward")


def rewards_of(name: str, trajectories: Sequence[Trajectory]) -> npt.NDArray[np.float64]:
    """The reward of each trajectory.

    Raises:
        BadData: the function gave something that is no finite number.
    """
    function = reward_function(name)
    rewards = []
    for trajectory in trajectories:
        reward: object = function(trajectory)
        if not isinstance(reward, int | float) or not math.isfinite(reward):
            raise BadData(
                f"reward {name} gave {reward!r} for (iteration, group, sample) "
                f"{trajectory.key}: it must be a finite number"
            )
        rewards.append(float(reward))
    return np.asarray(rewards, dtype=np.float64)
