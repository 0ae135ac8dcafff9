"""Rewards by name: a registered one, or `package.module:attribute`.

A reward is one of

- a function: called with a whole `Trajectory`, and `reward_args` as keyword arguments;
- a class: made once with `reward_args` as keyword arguments; its instance is called with each
  `Trajectory`. If it has a method `prepare`, that is called before with the list of all, so that
  it may judge them at once (many requests to a judge, say) and remember what came out. If it has
  a method `check`, `preflight` calls that: it says in a text what is there, or raises.

Each call returns a finite number. `env` is what the environment itself said.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft_components.errors import BadConfiguration, BadData
from tuft_components.names import resolve
from tuft_components.trajectories import Trajectory
from tuft_components.user_code import user_code

RewardFunction = Callable[[Trajectory], float]

REWARDS: dict[str, str] = {
    "env": "tuft_components.rewards.env:env_reward",
    "exact_match": "tuft_components.rewards.exact_match:exact_match",
    "judge": "tuft_components.rewards.judge:Judge",
}


def reward_function(name: str, args: Mapping[str, Any] | None = None) -> RewardFunction:
    """The reward, ready to be called with trajectories.

    Raises:
        BadConfiguration: no such reward, or arguments that it does not take.
    """
    given = dict(args or {})
    found = resolve(name, REWARDS, "reward")
    with user_code(f"reward {name}"):
        try:
            if inspect.isclass(found):
                made: Any = found(**given)
                if not callable(made):
                    raise TypeError("what it makes can't be called: it needs a method __call__")
                function: RewardFunction = made
                return function
            inspect.signature(found).bind(None, **given)
        except (TypeError, ValueError) as error:
            raise BadConfiguration(f"reward {name} with reward_args {given}: {error}") from error
    return partial(found, **given) if given else found


def judged(
    name: str, function: RewardFunction, trajectories: Sequence[Trajectory]
) -> npt.NDArray[np.float64]:
    """The reward of each trajectory; `name` is for messages.

    Raises:
        BadData: the reward raised something, or gave something that is no finite number.
    """
    prepare = getattr(function, "prepare", None)
    if prepare is not None:
        with user_code(f"reward {name}, in prepare,"):
            prepare(list(trajectories))
    rewards = []
    for trajectory in trajectories:
        where = f"for (iteration, group, sample) {trajectory.key}"
        with user_code(f"reward {name}, {where},"):
            reward: object = function(trajectory)
        if not isinstance(reward, Real) or not math.isfinite(reward):
            raise BadData(f"reward {name} gave {reward!r} {where}: it must be a finite number")
        rewards.append(float(reward))
    return np.asarray(rewards, dtype=np.float64)


def rewards_of(
    name: str, trajectories: Sequence[Trajectory], args: Mapping[str, Any] | None = None
) -> npt.NDArray[np.float64]:
    """The reward of each trajectory.

    Raises:
        BadConfiguration: as `reward_function`. BadData: as `judged`.
    """
    return judged(name, reward_function(name, args), trajectories)
