"""How a family's turns look to the policy: as lines of text, as chat messages, or as a choice.

The environments behind it say what is new as plain text, and know nothing of lines or chats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuft_components.envs.base import Environment, EnvironmentFamily, Task, Turn
from tuft_components.envs.choose import ASK, CHOOSING, Choosing

MODES = ("text", "chat", *CHOOSING)


def presented(
    family: EnvironmentFamily, mode: str, *, ask: str = ASK, stop: Sequence[str] = ("\n",)
) -> EnvironmentFamily:
    """`family`, as `mode` says.

    Args:
        mode: text (the observation, then `ask`, for models that go on with a text), chat (user
            messages, for the model's chat template), or choose or words (a list, see `choose`).
        ask: ends each observation of the mode text.
        stop: ends an action in the mode text.

    Raises:
        ValueError: there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; there are: {', '.join(MODES)}")
    if mode in CHOOSING:
        return Choosing(family, mode)
    return _Presented(family, None if mode == "chat" else ask, stop)


class _Presented:
    def __init__(self, family: EnvironmentFamily, ask: str | None, stop: Sequence[str]) -> None:
        self._family, self._ask = family, ask
        self.stop: Sequence[str] = family.stop if ask is None else stop
        self.tools: Sequence[Mapping[str, Any]] = family.tools
        self.at_once = family.at_once

    async def open(self) -> Environment:
        instance = await self._family.open()
        return _InChat(instance) if self._ask is None else _InLines(instance, self._ask)

    async def close(self) -> None:
        await self._family.close()


class _InLines:
    def __init__(self, environment: Environment, ask: str) -> None:
        self._environment, self._ask = environment, ask

    async def reset(self, task: Task) -> Turn:
        return self._asked(await self._environment.reset(task), "")

    async def step(self, action: str) -> Turn:
        # A policy that stops at the end of the line has said it, or was cut off before.
        lead = "" if action.endswith("\n") else "\n"
        return self._asked(await self._environment.step(action), lead)

    async def close(self) -> None:
        await self._environment.close()

    def _asked(self, turn: Turn, lead: str) -> Turn:
        if turn.done or not isinstance(turn.observation, str):
            return turn
        text = turn.observation.strip("\n")
        text = f"{text}\n{self._ask}" if text else self._ask
        return replace(turn, observation=lead + text)


class _InChat:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def reset(self, task: Task) -> Turn:
        return _as_message(await self._environment.reset(task))

    async def step(self, action: str) -> Turn:
        return _as_message(await self._environment.step(action))

    async def close(self) -> None:
        await self._environment.close()


def _as_message(turn: Turn) -> Turn:
    if not isinstance(turn.observation, str) or not turn.observation:
        return turn
    return replace(turn, observation=[{"role": "user", "content": turn.observation.strip("\n")}])
