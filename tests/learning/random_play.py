"""A player that acts at random: what it wins, and what it says.

It never names what cannot be done. Imitating it is the warm start of a model that names nothing of the list yet: it
learns the form of an answer, and nothing about which one is good.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.learning.curves import Curve
from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, Task
from tuft_components.envs.choose import meant


@dataclass(frozen=True)
class Episode:
    """`turns` are (all that was seen and said before, the answer)."""

    reward: float
    turns: list[tuple[str, str]]


def chance_of(curve: Curve) -> float:
    """The mean reward of an episode; computed, where the curve says it."""
    if curve.chance is not None:
        return curve.chance
    episodes = asyncio.run(_played(curve, "eval", 0, 192))
    return sum(episode.reward for episode in episodes) / len(episodes)


def write_examples(curve: Curve, seed: int, file: Path) -> None:
    """One answer of each of `curve.warm_start` episodes on training tasks, as rows for `sft`."""
    played = asyncio.run(_played(curve, "train", seed, curve.warm_start))
    chooser = random.Random(seed)
    turns = [chooser.choice(episode.turns) for episode in played]
    rows = [{"prompt": seen, "completion": answer} for seen, answer in turns]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


async def _played(curve: Curve, split: str, seed: int, episodes: int) -> list[Episode]:
    family = make_environment(curve.env, curve.env_args)
    chooser = random.Random(seed)
    environment = await family.open()
    try:
        return [
            await _episode(environment, Task(split, seed, index), curve, chooser)
            for index in range(episodes)
        ]
    finally:
        await environment.close()
        await family.close()


def _said(chooser: random.Random, actions: Sequence[str]) -> str:
    """A number, or words that only the chosen action has."""
    chosen = chooser.randrange(len(actions))
    words = actions[chosen].split()
    spans = [(at, end) for at in range(len(words)) for end in range(at + 1, len(words) + 1)]
    said = [" ".join(words[at:end]) for at, end in spans]
    return chooser.choice(
        [one for one in said if meant(one, actions) == chosen] or [actions[chosen]]
    )


async def _episode(
    environment: Environment, task: Task, curve: Curve, chooser: random.Random
) -> Episode:
    turn = await environment.reset(task)
    seen, turns, reward = "", [], 0.0
    for _ in range(curve.params["max_turns"]):
        assert isinstance(turn.observation, str), "what chooses reads text"
        seen += turn.observation
        answer = f" {_said(chooser, turn.actions or curve.answers)}\n"
        turns.append((seen, answer))
        seen += answer
        turn = await environment.step(answer)
        reward += turn.reward
        if turn.done:
            break
    return Episode(reward, turns)
