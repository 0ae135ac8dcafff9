"""Tasks as data: where a bot begins, what is wanted, and which tasks come before.

A task is won when its last step is reached; the steps before are progress. All of them are
predicates on what the referee sees, so that no judge is needed. `{wood}` is another kind of tree
from task to task, so that what was learnt is to read, not one sequence of words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tuft_components.envs.voyager.game import Seen

Predicate = Mapping[str, Mapping[str, int]]
"""At least so many, by inventory, placed, mined or crafted, and by name."""
Block = tuple[int, int, int, str]

WOODS = ("oak", "birch", "spruce", "jungle")
PREDICATES = tuple(Seen.__dataclass_fields__)
_GROUND = 5
_TALL = 2
"""Blocks of one kind stand on each other: two, that a bot sees over them."""


@dataclass(frozen=True)
class TaskKind:
    """
    Args:
        say: what is wanted, in words.
        world: blocks that stand around the bot, by name.
        have: what the bot begins with.
        steps: predicates in their order; the last is the goal.
        way: macro actions that reach it; the shortest that we know.
        others: macro actions that are offered beside these.
        needs: tasks that come before.
    """

    name: str
    say: str
    steps: Sequence[Predicate]
    world: Mapping[str, int] = field(default_factory=dict)
    have: Mapping[str, int] = field(default_factory=dict)
    way: Sequence[str] = ()
    others: Sequence[str] = ()
    needs: Sequence[str] = ()


def task_from(name: str, values: Mapping[str, Any]) -> TaskKind:
    """Raises:
    ValueError: a value that can't be.
    """
    try:
        made = TaskKind(name=name, **values)
    except TypeError as error:
        raise ValueError(f"task {name}: {error}") from error
    if not made.steps:
        raise ValueError(f"task {name} has no steps: the last one is its goal")
    for step in made.steps:
        unknown = sorted(set(step) - set(PREDICATES))
        if unknown or not step:
            raise ValueError(f"task {name}: a step is about {', '.join(PREDICATES)}, not {unknown}")
    return made


@cache
def all_tasks() -> Mapping[str, TaskKind]:
    """Ours, by name."""
    rows = json.loads((Path(__file__).parent / "tasks.json").read_text())
    return {name: task_from(name, values) for name, values in rows.items()}


@dataclass(frozen=True)
class Begun:
    """A task with its world. `progress` is 0 to 1; at 1 it is solved."""

    kind: TaskKind
    blocks: Sequence[Block]
    wood: str

    def progress(self, seen: Seen) -> float:
        """The share of the steps up to the last one that is reached."""
        reached = [number for number, step in enumerate(self.kind.steps, 1) if holds(step, seen)]
        return max(reached, default=0) / len(self.kind.steps)


def begin(kind: TaskKind, chance: random.Random) -> Begun:
    """Which wood, and where the blocks stand: follows from `chance` alone."""
    wood = chance.choice(WOODS)
    filled = task_from(kind.name, _filled(kind, wood))
    return Begun(filled, _blocks(filled.world, chance), wood)


def holds(step: Predicate, seen: Seen) -> bool:
    return all(
        getattr(seen, what).get(name, 0) >= count
        for what, counts in step.items()
        for name, count in counts.items()
    )


def _filled(kind: TaskKind, wood: str) -> dict[str, Any]:
    values = {name: getattr(kind, name) for name in TaskKind.__dataclass_fields__ if name != "name"}
    text = json.dumps(values).replace("{wood}", wood)
    filled: dict[str, Any] = json.loads(text)
    return filled


def _blocks(world: Mapping[str, int], chance: random.Random) -> list[Block]:
    """Columns around the bot, near enough to reach with few steps, with ways between them."""
    ring = [(x, z) for x in range(-4, 5, 2) for z in range(-4, 5, 2) if max(abs(x), abs(z)) >= 2]
    chance.shuffle(ring)
    made: list[Block] = []
    for name, count in sorted(world.items()):
        for first in range(0, count, _TALL):
            x, z = ring.pop()
            high = min(_TALL, count - first)
            made += [(x, _GROUND + above, z, name) for above in range(high)]
    return made
