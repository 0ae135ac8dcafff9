"""Sums and differences of small numbers; one turn, text."""

from __future__ import annotations

import re
from collections import Counter

from tuft_components.envs.base import SPLITS, Task, Turn

_EXAMPLES = "2 + 3 = 5\n9 - 4 = 5\n"


class Arithmetic:
    """Reward 1 for the right number, else 0. `guessing` computes what blind guessing wins.

    The pairs of numbers up to `highest` are divided between the splits: those of `eval`, one in
    four, are never trained on.
    """

    stop = ("\n",)

    def __init__(self, *, highest: int = 9) -> None:
        if highest < 3:
            raise ValueError("highest must be 3 or more: there must be pairs for both splits")
        self._highest = highest
        self._answer = 0

    async def reset(self, task: Task) -> Turn:
        pairs = pairs_of(task.split, self._highest)
        random = task.random()
        low, high = sorted(random.choice(pairs))
        first, second = random.sample((low, high), 2)
        plus = random.random() < 0.5
        self._answer = low + high if plus else high - low
        asked = f"{first} + {second}" if plus else f"{high} - {low}"
        return Turn(f"{_EXAMPLES}{asked} =", info={"reference": self._answer})

    async def step(self, action: str) -> Turn:
        found = re.match(r"\s*(-?\d{1,9})\b", action)
        error = "" if found else "say a whole number"
        right = found is not None and int(found[1]) == self._answer
        return Turn(reward=float(right), done=True, error=error, info={"reference": self._answer})


def pairs_of(split: str, highest: int) -> list[tuple[int, int]]:
    """The pairs (low, high) of a split.

    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    pairs = [(low, high) for high in range(highest + 1) for low in range(high + 1)]
    # Any rule that mixes well does.
    return [(a, b) for a, b in pairs if ((3 * a + 5 * b) % 4 == 1) == (split == "eval")]


def guessing(split: str, highest: int = 9) -> dict[str, float]:
    """What is won by a random whole number from 0 to twice the highest, and by always saying the
    most frequent answer."""
    answers = Counter(answer for a, b in pairs_of(split, highest) for answer in (a + b, b - a))
    return {"random": 1 / (2 * highest + 1), "constant": max(answers.values()) / answers.total()}
