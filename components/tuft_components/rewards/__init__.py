"""Rewards by name: a registered one, or `package.module:attribute`.

A reward is one of

- a function: called with a whole `Trajectory`, and `reward_args` as keyword arguments;
- a class: made once with `reward_args` as keyword arguments; its instance is called with each
  `Trajectory`. If it has a method `prepare`, that is called before with the list of all, so that
  it may judge them at once (many requests to a judge, say) and remember what came out.

What else it has of these is used:

- `turns(trajectory)`: what it gives for each turn, for `credit=turn`. Without it, the last turn has
  the whole reward.
- `keep_below(uri, name)`: called before `prepare` with the step's `work_uri`, which may be empty.
  What it keeps there (answers of a judge, say) it finds again when the step `name` is tried once
  more.
- `metrics()`: numbers about the judging, for the step's metrics.
- `check()`: `preflight` calls it; it says in a text what is there, or raises.

Each call returns a finite number. `env` is what the environment itself said.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    "env": "tuft_components.rewards.env:EnvReward",
    "exact_match": "tuft_components.rewards.exact_match:exact_match",
    "numeric": "tuft_components.rewards.numeric:Numeric",
    "regex": "tuft_components.rewards.regex_match:Regex",
    "unit_tests": "tuft_components.rewards.unit_tests:UnitTests",
    "judge": "tuft_components.rewards.judge:Judge",
    "judge_pairwise": "tuft_components.rewards.judge_pairwise:JudgePairwise",
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


@dataclass(frozen=True)
class Keeping:
    """Where a reward may keep things: below `work_uri`, for the step execution of that name."""

    work_uri: str
    name: str


def judged(
    name: str,
    function: RewardFunction,
    trajectories: Sequence[Trajectory],
    keeping: Keeping | None = None,
) -> npt.NDArray[np.float64]:
    """The reward of each trajectory; `name` is for messages.

    Raises:
        BadData: the reward raised something, or gave something that is no finite number.
    """
    keep_below = getattr(function, "keep_below", None)
    if keep_below is not None and keeping is not None:
        with user_code(f"reward {name}, in keep_below,"):
            keep_below(keeping.work_uri.rstrip("/"), keeping.name)
    prepare = getattr(function, "prepare", None)
    if prepare is not None:
        with user_code(f"reward {name}, in prepare,"):
            prepare(list(trajectories))
    rewards = []
    for trajectory in trajectories:
        where = f"for (iteration, group, sample) {trajectory.key}"
        with user_code(f"reward {name}, {where},"):
            reward: object = function(trajectory)
        rewards.append(_finite(reward, name, where))
    return np.asarray(rewards, dtype=np.float64)


def rewards_of_turns(
    name: str,
    function: RewardFunction,
    trajectories: Sequence[Trajectory],
    rewards: npt.NDArray[np.float64],
) -> list[npt.NDArray[np.float64]]:
    """Of each trajectory, the reward of each of its turns; `rewards` are those of whole ones.

    Raises:
        BadData: as `judged`; or the reward gave another number of them than there are turns.
    """
    of_turns = getattr(function, "turns", None)
    found = []
    for trajectory, whole in zip(trajectories, rewards, strict=True):
        values: list[float] = [0.0] * (len(trajectory.transitions) - 1) + [float(whole)]
        if of_turns is not None:
            where = f"in turns, for (iteration, group, sample) {trajectory.key}"
            with user_code(f"reward {name}, {where},"):
                given = list(of_turns(trajectory))
            if len(given) != len(values):
                raise BadData(
                    f"reward {name} gave {len(given)} numbers {where}: it has {len(values)} turns"
                )
            values = [_finite(value, name, where) for value in given]
        found.append(np.asarray(values, dtype=np.float64))
    return found


def metrics_of(name: str, function: RewardFunction) -> dict[str, float]:
    """What the reward tells of its judging.

    Raises:
        BadData: it raised something, or gave something that is no finite number.
    """
    metrics = getattr(function, "metrics", None)
    if metrics is None:
        return {}
    with user_code(f"reward {name}, in metrics,"):
        given = dict(metrics())
    return {str(key): _finite(value, name, f"as metric {key}") for key, value in given.items()}


def _finite(value: object, name: str, where: str) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise BadData(f"reward {name} gave {value!r} {where}: it must be a finite number")
    return float(value)


def rewards_of(
    name: str, trajectories: Sequence[Trajectory], args: Mapping[str, Any] | None = None
) -> npt.NDArray[np.float64]:
    """The reward of each trajectory.

    Raises:
        BadConfiguration: as `reward_function`. BadData: as `judged`.
    """
    return judged(name, reward_function(name, args), trajectories)
