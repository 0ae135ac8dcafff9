"""What tests in a real browser need, and agents that read its pages."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, EnvironmentFamily, Task, Turn
from tuft_components.envs.registry import ENVIRONMENTS

Agent = Callable[[Turn], str]
"""Says what to do, from what the environment said last."""


def needs(name: str) -> pytest.MarkDecorator:
    """Skips where something that the environment `name` needs is not installed."""
    missing = ENVIRONMENTS[name].missing()
    reason = f"{name} needs {', '.join(missing)}: make install-envs"
    return pytest.mark.skipif(bool(missing), reason=reason)


@asynccontextmanager
async def playing(name: str, **args: Any) -> AsyncIterator[tuple[EnvironmentFamily, Environment]]:
    """The environment, and an instance of it."""
    family = make_environment(name, args)
    instance = await family.open()
    try:
        yield family, instance
    finally:
        await instance.close()
        await family.close()


async def played(
    instance: Environment, task: Task, agent: Agent, turns: int = 12
) -> tuple[float, list[Turn]]:
    """The reward of an episode, and what was said in it."""
    said = [await instance.reset(task)]
    while not said[-1].done and len(said) <= turns:
        said.append(await instance.step(agent(said[-1])))
    return sum(turn.reward for turn in said), said


def choices(turn: Turn) -> list[str]:
    """What there is to choose from, in order."""
    return re.findall(r"^\d+\. (.*)$", str(turn.observation), re.MULTILINE)


def choose(turn: Turn, pattern: str) -> str:
    """The number of the first choice that matches, as a policy says it."""
    for number, choice in enumerate(choices(turn), 1):
        if re.search(pattern, choice):
            return f" {number}\n"
    raise AssertionError(f"no choice like {pattern!r} in: {turn.observation}")


def children(pid: int) -> list[int]:
    """Processes that descend from `pid`, and it itself where it runs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            fields = stat.rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, open_ = [], [pid]
    while open_:
        found.append(open_.pop())
        open_ += parents.get(found[-1], [])
    return found if Path(f"/proc/{pid}").exists() else found[1:]


def megabytes(pids: list[int]) -> float:
    """Of memory that the processes have, what they share divided among them."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
        total += int(found[1]) if found else 0
    return total / 1024


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
