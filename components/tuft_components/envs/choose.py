"""Actions as a numbered list, for models that are too small to write them.

    1. click[Submit]
    2. click[Cancel]
    Action:

The policy answers with a number. It is a real choice among what the environment allows, so that
the same tasks can be learnt by a small model at first and played in full by a larger one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from tuft_components.envs.base import Environment, EnvironmentFamily, Observation, Task, Turn

ASK = "Action:"


class Choosing:
    """A family whose actions are numbers. Two new tokens are enough for the first nine."""

    def __init__(self, family: EnvironmentFamily, *, ask: str = ASK) -> None:
        """`ask` ends the list; a text observation ends there, so that a model goes on with a number."""
        self._family = family
        self._ask = ask
        self.stop: Sequence[str] = ("\n",)
        self.at_once = family.at_once
        self.tools = ()

    async def open(self) -> Environment:
        return _Choosing(await self._family.open(), self._ask)

    async def close(self) -> None:
        await self._family.close()


class _Choosing:
    def __init__(self, environment: Environment, ask: str) -> None:
        self._environment = environment
        self._ask = ask
        self._actions: Sequence[str] = ()

    async def reset(self, task: Task) -> Turn:
        return self._listed(await self._environment.reset(task), "")

    async def step(self, action: str) -> Turn:
        # A policy that stops at the end of the line has said it, or was cut off before.
        lead = "" if action.endswith("\n") else "\n"
        chosen = number_in(action, len(self._actions))
        if chosen is None:
            said = f"give a number from 1 to {len(self._actions)}"
            return self._listed(Turn(said, actions=self._actions, error=said), lead)
        return self._listed(await self._environment.step(self._actions[chosen - 1]), lead)

    async def close(self) -> None:
        await self._environment.close()

    def _listed(self, turn: Turn, lead: str) -> Turn:
        if turn.done:
            return turn
        if not turn.actions:
            raise TypeError(
                "the environment gives no list of actions: it can't be played by choosing"
            )
        self._actions = tuple(turn.actions)
        lines = [f"{number}. {action}" for number, action in enumerate(self._actions, 1)]
        text = "\n".join(["", *lines, self._ask])
        numbers = [str(number) for number in range(1, len(lines) + 1)]
        return replace(turn, observation=_with(turn.observation, text, lead), actions=numbers)


def number_in(action: str, highest: int) -> int | None:
    """The number that an action begins with, if it is 1 to `highest`."""
    found = re.match(r"\s*(\d{1,6})\b", action)
    number = int(found[1]) if found else 0
    return number if 1 <= number <= highest else None


def _with(observation: Observation, text: str, lead: str) -> Observation:
    if isinstance(observation, str):
        return lead + observation.strip("\n") + text
    *before, last = observation
    return [*before, {**last, "content": last["content"] + text}]


def maybe_choosing(
    mode: str, modes: Sequence[str], make: Callable[[], EnvironmentFamily]
) -> EnvironmentFamily:
    """What `make` makes, played by choosing where `mode` is "choose".

    Raises:
        ValueError: `mode` is neither that nor one of `modes`.
    """
    if mode != "choose" and mode not in modes:
        raise ValueError(f"mode is {mode!r}; there are: {', '.join([*modes, 'choose'])}")
    family = make()
    return Choosing(family) if mode == "choose" else family
