"""Playing an environment with given actions, here and in another process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, EnvironmentFamily, Message, Task, Turn

Player = Callable[[Turn], str]
Walk = list[list[Any]]


async def play(environment: Environment, task: Task, player: Player, most: int = 50) -> list[Turn]:
    """All turns of an episode, the first one among them."""
    turns = [await environment.reset(task)]
    while not turns[-1].done and len(turns) <= most:
        turns.append(await environment.step(player(turns[-1])))
    return turns


def messages_of(turn: Turn) -> Sequence[Message]:
    assert not isinstance(turn.observation, str)
    return turn.observation


async def won(family: EnvironmentFamily, player: Player, task: Task | None = None) -> float:
    environment = await family.open()
    turns = await play(environment, task or Task("train", 0, 0), player)
    await environment.close()
    await family.close()
    assert turns[-1].done
    return sum(turn.reward for turn in turns)


def walk(name: str, args: Mapping[str, Any], task: Task, actions: Sequence[str]) -> Walk:
    """What the environment says to these actions, as JSON has it."""

    async def walked() -> list[Turn]:
        family = make_environment(name, args)
        environment = await family.open()
        left = iter(actions)
        turns = await play(environment, task, lambda _: next(left), len(actions))
        await environment.close()
        await family.close()
        return turns

    turns = asyncio.run(walked())
    said = [[turn.observation, turn.reward, turn.done, list(turn.actions)] for turn in turns]
    result: Walk = json.loads(json.dumps(said))
    return result


def walk_elsewhere(name: str, args: Mapping[str, Any], task: Task, actions: Sequence[str]) -> Walk:
    """`walk` in another process, where texts have other hashes."""
    text = json.dumps([name, args, [task.split, task.seed, task.index], list(actions)])
    result = subprocess.run(
        [sys.executable, "-m", "tests.envs.walks", text],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "77"},
    )
    assert result.returncode == 0, result.stderr
    said: Walk = json.loads(result.stdout.splitlines()[-1])
    return said


if __name__ == "__main__":
    name, args, task, actions = json.loads(sys.argv[1])
    sys.stdout.write("\n" + json.dumps(walk(name, args, Task(*task), actions)) + "\n")
