"""Steps and episodes a second of each environment, with random play and no model.

One instance, and as many at once as the family has, up to eight. What is not installed is left out,
and said. `/ grid` compares with the light environment `grid`, which does next to nothing: what is
left of it is the cost of asyncio.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tuft_components.envs import make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.instances import Instances
from tuft_components.errors import BadConfiguration

_CALL_S = 120.0
_TURNS = 16


@dataclass(frozen=True)
class Played:
    """`says` is what is said where there is no list of actions."""

    env: str
    env_args: Mapping[str, Any] = field(default_factory=dict)
    says: str = "1"


ENVIRONMENTS = [
    Played("grid"),
    Played("number_guess"),
    Played("webshop", {"mode": "choose", "shelf": "mixed", "products": 40}),
    Played("webshop", says="search[cotton towel]"),
    Played("miniwob:click-button", {"mode": "choose"}),
    Played("browser:table", says="noop(0)"),
    Played("voyager:planks", {"mode": "choose"}),
    Played("code", says="```python\ndef f():\n    return 1\n```"),
    Played("gym:FrozenLake-v1"),
    Played("reasoning_gym:basic_arithmetic"),
]


@dataclass
class Rates:
    steps: float
    episodes: float


async def measure(played: Played, at_once: int, seconds: float) -> Rates:
    """The first episode of each instance, which may start a browser or a server, is not counted."""
    instances = Instances(make_environment(played.env, played.env_args), _CALL_S)
    numbers, chooser = count(), random.Random(0)
    done = {"steps": 0, "episodes": 0}
    begun = time.perf_counter()

    async def episode() -> None:
        instance = await instances.take()
        turn = await instances.bounded(instance.reset(Task("train", 0, next(numbers))))
        for _ in range(_TURNS):
            action = chooser.choice(turn.actions) if turn.actions else played.says
            turn = await instances.bounded(instance.step(action))
            done["steps"] += 1
            if turn.done:
                break
        done["episodes"] += 1
        instances.give(instance)

    async def play() -> None:
        while time.perf_counter() < begun + seconds:
            await episode()

    try:
        await asyncio.gather(*(episode() for _ in range(at_once)))
        done.update(steps=0, episodes=0)
        begun = time.perf_counter()
        await asyncio.gather(*(play() for _ in range(at_once)))
        taken = time.perf_counter() - begun
    finally:
        await instances.close()
    return Rates(done["steps"] / taken, done["episodes"] / taken)


def told(played: Sequence[Played], seconds: float) -> None:
    print(f"{'':<42}{'steps/s':>9}{'episodes/s':>12}{'/ grid':>9}   8 at once: steps/s")
    grid = None
    for one in played:
        name = f"{one.env} {one.env_args.get('mode', '')}".strip()
        try:
            alone = asyncio.run(measure(one, 1, seconds))
            many = asyncio.run(measure(one, 8, seconds))
        except BadConfiguration as error:
            print(f"{name:<42}{error}")
            continue
        grid = grid or alone.steps
        print(
            f"{name:<42}{alone.steps:9.1f}{alone.episodes:12.2f}{alone.steps / grid:9.4f}"
            f"   {many.steps:9.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    told(ENVIRONMENTS, options.seconds)


if __name__ == "__main__":
    main()
