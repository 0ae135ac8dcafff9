"""What acting at random wins, where what can be done is a list."""

from __future__ import annotations

import asyncio
import random

from tests.learning.curves import Curve
from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, Task


def chance_of(curve: Curve, episodes: int = 192) -> float:
    """The mean reward of an episode; computed, where the curve says it."""
    if curve.chance is not None:
        return curve.chance
    return asyncio.run(_played(curve, episodes))


async def _played(curve: Curve, episodes: int) -> float:
    family = make_environment(curve.env, curve.env_args)
    chooser = random.Random(0)
    environment = await family.open()
    try:
        rewards = [
            await _episode(environment, Task("eval", 0, index), curve.params["max_turns"], chooser)
            for index in range(episodes)
        ]
    finally:
        await environment.close()
        await family.close()
    return sum(rewards) / episodes


async def _episode(
    environment: Environment, task: Task, max_turns: int, chooser: random.Random
) -> float:
    turn = await environment.reset(task)
    reward = 0.0
    for _ in range(max_turns):
        turn = await environment.step(chooser.choice(turn.actions))
        reward += turn.reward
        if turn.done:
            break
    return reward
