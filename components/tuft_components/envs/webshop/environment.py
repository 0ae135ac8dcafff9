"""WebShop as an environment: pages as text, actions `search[words]` and `click[button]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.webshop.goals import split_of
from tuft_components.envs.webshop.shop import Shop, Visit

INTRODUCTION = (
    "You are shopping on the web. Answer with one action: search[words] where there is a search bar, "
    "or click[button] with a button of the page. Buy what the instruction asks for: choose the "
    "product and its options, then click[buy now]."
)
_LONGEST_ACTION = 1000  # characters
_LISTED = 30  # buttons that an error names
_ACTION = re.compile(r"\b(search|click)\s*\[(.+)\]", re.IGNORECASE)


def action_in(said: str) -> str:
    """The last action that is said, for a model that thinks first; else what is said, as it is."""
    found = [match for line in said.splitlines() if (match := _ACTION.search(line))]
    if not found:
        return said.strip()
    return f"{found[-1][1].lower()}[{found[-1][2].strip()}]"


class Goals:
    """Which goal a task means: those of a split, in an order that the seed tells."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._ordered = cache(self._order)

    def number(self, task: Task) -> int:
        """Raises:
        ValueError: there is no such split, or it has no goals.
        """
        ordered = self._ordered(task.split, task.seed)
        return ordered[task.index % len(ordered)]

    def _order(self, split: str, seed: int) -> Sequence[int]:
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
        goals = split_of(self._shop.goals, split)
        if not goals:
            raise ValueError(
                f"no goals for {split} in a catalogue of {len(self._shop.products)} products: "
                "it must have goals for two products or more"
            )
        Random(f"webshop/{seed}").shuffle(goals)
        return goals


class WebShop:
    """Reward at `click[buy now]`, by the published formula; an action that the page does not have is
    an error, and changes nothing."""

    def __init__(self, shop: Shop, goals: Goals, observation: str, introduction: str) -> None:
        self._shop, self._goals = shop, goals
        self._mode, self._introduction = observation, introduction
        self._visit: Visit

    async def reset(self, task: Task) -> Turn:
        self._visit = Visit(self._shop, self._goals.number(task))
        page = self._visit.observation(self._mode)
        return Turn(introduced(page, self._introduction), info=task_info(self._visit))

    async def step(self, action: str) -> Turn:
        visit = self._visit
        said = action_in(action[:_LONGEST_ACTION])
        step = visit.step(said)
        if step.done:
            return Turn(reward=step.reward, done=True, info=task_info(visit))
        buttons = [] if visit.has_search_bar else visit.clickables
        error = "" if step.ok else no_such_action(said, buttons)
        return Turn(
            error or visit.observation(self._mode),
            actions=[f"click[{button}]" for button in buttons],
            error=error,
            info=task_info(visit),
        )


def introduced(page: str, introduction: str) -> str:
    return f"{introduction}\n\n{page}" if introduction else page


def task_info(visit: Visit) -> Mapping[str, Any]:
    """The goal; after buying, what was bought, and the parts of the reward."""
    info: dict[str, Any] = {"goal": visit.number, "instruction": visit.instruction}
    if visit.score is not None and visit.product is not None:
        info["bought"] = visit.product.asin
        info["options"] = dict(visit.options)
        info["score"] = visit.score.parts()
    return info


def no_such_action(said: str, buttons: Sequence[str]) -> str:
    """Without buttons, the page is the search page."""
    shown = said if len(said) <= 80 else f"{said[:80]}…"
    if not buttons:
        return f"{shown!r} is no action here; say search[words]"
    more = f" and {len(buttons) - _LISTED} more" if len(buttons) > _LISTED else ""
    return (
        f"{shown!r} is no action here; click[…] one of: {', '.join(buttons[:_LISTED])}{more}; "
        "or search[words]"
    )
