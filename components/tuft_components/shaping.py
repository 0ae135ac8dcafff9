"""The parameter `shaping` of `feedback`: which changes are made to rewards before advantages.

The rewards that are told (`mean_reward`, the column `reward`) stay those that were judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from tuft_components.errors import BadConfiguration, BadData
from tuft_components.rl import shaping as rl
from tuft_components.rl.advantages import Doubles
from tuft_components.steps import Contract
from tuft_components.trajectories import Trajectory


class Shaping(Contract):
    """What is left out changes nothing. Done in this order; docs/feedback.md has the sources."""

    scale: bool = Field(default=False, description="Divide by the deviation of the batch.")
    clip: tuple[float, float] | None = Field(
        default=None, description="Lowest and highest reward of a turn."
    )
    error_penalty: float = Field(
        default=0.0, ge=0, description="For each turn in which the environment told an error."
    )
    overlong_tokens: int = Field(
        default=0, ge=0, description="Length of an answer from which on the whole penalty counts."
    )
    overlong_soft: int = Field(
        default=0, ge=0, description="Tokens over which it grows. 0: a quarter of these."
    )
    overlong_penalty: float = Field(default=1.0, ge=0, description="Of an answer that long.")
    potential: str = Field(
        default="", description="Name in the environment's info of how good a state is."
    )

    @model_validator(mode="after")
    def _ranges(self) -> Shaping:
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError("clip: give the lower bound first")
        if self.overlong_soft > self.overlong_tokens:
            raise ValueError("overlong_soft must not be more than overlong_tokens")
        return self

    @property
    def soft(self) -> int:
        return self.overlong_soft or max(1, self.overlong_tokens // 4)


def shaping_of(given: Mapping[str, Any]) -> Shaping:
    """Raises:
    BadConfiguration: an unknown name, or a value out of range.
    """
    try:
        return Shaping.model_validate(dict(given))
    except ValidationError as error:
        lines = [
            f"shaping {'.'.join(map(str, item['loc'])) or dict(given)}: {item['msg']}"
            for item in error.errors()
        ]
        known = ", ".join(Shaping.model_fields)
        raise BadConfiguration("; ".join(lines) + f" (there are: {known})") from error


def shaped(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[Doubles],
    shaping: Shaping,
    gamma: float,
) -> list[Doubles]:
    """The rewards of each episode's turns, shaped.

    Raises:
        BadData: the environment does not tell the potential.
    """
    made = rl.scaled(rewards) if shaping.scale else list(rewards)
    if shaping.clip is not None:
        low, high = shaping.clip
        made = [rl.clipped(each, low, high) for each in made]
    added = [_added(trajectory, shaping, gamma) for trajectory in trajectories]
    return [reward + more for reward, more in zip(made, added, strict=True)]


def _added(trajectory: Trajectory, shaping: Shaping, gamma: float) -> Doubles:
    turns = trajectory.transitions
    total = np.zeros(len(turns), dtype=np.float64)
    if shaping.error_penalty:
        wrong = np.asarray([bool(turn.error) for turn in turns])
        total += rl.error_penalty(wrong, shaping.error_penalty)
    if shaping.overlong_tokens:
        lengths = np.asarray([len(turn.completion_tokens) for turn in turns])
        penalty = rl.overlong_penalty(lengths, shaping.overlong_tokens, shaping.soft)
        total += shaping.overlong_penalty * penalty
    if shaping.potential:
        total += rl.potential_shaping(_potentials(trajectory, shaping.potential), gamma)
    return total


def _potentials(trajectory: Trajectory, name: str) -> Doubles:
    values = []
    for turn in trajectory.transitions:
        value = turn.info.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise BadData(
                f"shaping by potential: info[{name!r}] of environment {turn.env} is {value!r} in "
                f"turn {turn.turn} of (iteration, group, sample) {trajectory.key}: it must be a "
                f"finite number; its info has: {', '.join(turn.info) or 'nothing'}"
            )
        values.append(float(value))
    return np.asarray(values, dtype=np.float64)
