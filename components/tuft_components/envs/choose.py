"""Actions as a list to choose from, for models that are too small to write them.

    1. click[Submit]                - click[Submit]
    2. click[Cancel]                - click[Cancel]
    Action: 2                       Action: cancel

In the mode `choose` the policy answers with a number, in the mode `words` with some words that only
one of them has. It is a real choice among what the environment allows, so that the same tasks can be
learnt by a small model at first and played in full by a larger one. Words are easier for the
smallest: they can say again what they read in the task, and need not find the number before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from tuft_components.envs.base import Environment, EnvironmentFamily, Observation, Task, Turn

ASK = "Action:"
CHOOSING = ("choose", "words")
"""Modes that are played so."""


class Choosing:
    """A family whose actions are chosen from a list."""

    def __init__(self, family: EnvironmentFamily, mode: str = "choose", *, ask: str = ASK) -> None:
        """
        Args:
            mode: choose (two new tokens are enough for the first nine numbers) or words.
            ask: ends the list; a text observation ends there, so that a model goes on with its choice.
        """
        self._family = family
        self._manner = _Words() if mode == "words" else _Numbers()
        self._ask = ask
        self.stop: Sequence[str] = ("\n",)
        self.at_once = family.at_once
        self.tools = ()

    async def open(self) -> Environment:
        return _Choosing(await self._family.open(), self._manner, self._ask)

    async def close(self) -> None:
        await self._family.close()


class _Manner(Protocol):
    """How a list is shown and answered."""

    def lines(self, actions: Sequence[str]) -> list[str]:
        """What is shown, an action each."""
        ...

    def answers(self, actions: Sequence[str]) -> Sequence[str]:
        """What chooses each of them."""
        ...

    def chosen(self, answer: str, actions: Sequence[str]) -> int | None:
        """The place of the action that is meant."""
        ...

    def usage(self, actions: Sequence[str]) -> str:
        """What to say instead of an answer that means none."""
        ...


class _Numbers:
    def lines(self, actions: Sequence[str]) -> list[str]:
        return [f"{number}. {action}" for number, action in enumerate(actions, 1)]

    def answers(self, actions: Sequence[str]) -> Sequence[str]:
        return [str(number) for number in range(1, len(actions) + 1)]

    def chosen(self, answer: str, actions: Sequence[str]) -> int | None:
        number = number_in(answer, len(actions))
        return None if number is None else number - 1

    def usage(self, actions: Sequence[str]) -> str:
        return f"give a number from 1 to {len(actions)}"


class _Words:
    def lines(self, actions: Sequence[str]) -> list[str]:
        return [f"- {action}" for action in actions]

    def answers(self, actions: Sequence[str]) -> Sequence[str]:
        return actions

    def chosen(self, answer: str, actions: Sequence[str]) -> int | None:
        return meant(answer, actions)

    def usage(self, actions: Sequence[str]) -> str:  # noqa: ARG002  # no number is in it
        return "name one of these, by words that only it has"


class _Choosing:
    def __init__(self, environment: Environment, manner: _Manner, ask: str) -> None:
        self._environment = environment
        self._manner = manner
        self._ask = ask
        self._actions: Sequence[str] = ()

    async def reset(self, task: Task) -> Turn:
        return self._listed(await self._environment.reset(task), "")

    async def step(self, action: str) -> Turn:
        # A policy that stops at the end of the line has said it, or was cut off before.
        lead = "" if action.endswith("\n") else "\n"
        chosen = self._manner.chosen(action, self._actions)
        if chosen is None:
            said = self._manner.usage(self._actions)
            return self._listed(Turn(said, actions=self._actions, error=said), lead)
        return self._listed(await self._environment.step(self._actions[chosen]), lead)

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
        text = "\n".join(["", *self._manner.lines(self._actions), self._ask])
        answers = self._manner.answers(self._actions)
        return replace(turn, observation=_with(turn.observation, text, lead), actions=answers)


def number_in(action: str, highest: int) -> int | None:
    """The number that an action begins with, if it is 1 to `highest`."""
    found = re.match(r"\s*(\d{1,6})\b", action)
    number = int(found[1]) if found else 0
    return number if 1 <= number <= highest else None


def meant(answer: str, actions: Sequence[str]) -> int | None:
    """The place of the only action that has the first line's words, one behind the other.

    An action in full means that one, also where another one has its words too. The last word may
    be cut off.
    """
    line = next(iter(answer.strip().splitlines()), "").casefold()
    words = _words(line)
    each = [_words(action) for action in actions]
    for fits in (
        [action.casefold() == line for action in actions],
        [one == words for one in each],
        [_has(one, words, cut_off=False) for one in each],
        [_has(one, words, cut_off=True) for one in each],
    ):
        if any(fits):
            return fits.index(True) if sum(fits) == 1 else None
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _has(words: Sequence[str], part: Sequence[str], *, cut_off: bool) -> bool:
    if not part:
        return False
    *before, last = part
    for start in range(len(words) - len(before)):
        end = start + len(before)
        same = words[end].startswith(last) if cut_off else words[end] == last
        if same and words[start:end] == before:
            return True
    return False


def _with(observation: Observation, text: str, lead: str) -> Observation:
    if isinstance(observation, str):
        return lead + observation.strip("\n") + text
    *before, last = observation
    return [*before, {**last, "content": last["content"] + text}]


def maybe_choosing(
    mode: str, modes: Sequence[str], make: Callable[[], EnvironmentFamily]
) -> EnvironmentFamily:
    """What `make` makes, played by choosing where `mode` is one of `CHOOSING`.

    Raises:
        ValueError: `mode` is neither of these nor one of `modes`.
    """
    if mode not in (*modes, *CHOOSING):
        raise ValueError(f"mode is {mode!r}; there are: {', '.join([*modes, *CHOOSING])}")
    family = make()
    return Choosing(family, mode) if mode in CHOOSING else family
