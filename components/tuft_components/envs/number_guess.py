"""Guess a number: the answers are `higher` and `lower`.

Multi-turn, and small enough for a model of 135M parameters. With numbers from 1 to 8 and three
guesses, guessing blindly wins 0.33 of the episodes, guessing anything that the answers leave open
0.61, and halving what is left 0.875 (`scores` computes them).
"""

from __future__ import annotations

import re
from functools import cache

from tuft_components.envs.base import SPLITS, Task, Turn

_INTRODUCTION = "I think of a number from 1 to {highest}.\nGuess:"


class NumberGuess:
    """Reward 1 where the number is found within `guesses`, else 0.

    What is no number of the range costs a guess, and is told. Tasks of the two splits differ by
    their seeds only: there are no more than `highest` of them.
    """

    stop = ("\n",)

    def __init__(self, *, highest: int = 8, guesses: int = 3) -> None:
        if highest < 2 or guesses < 1:
            raise ValueError("highest must be 2 or more, and guesses 1 or more")
        self._highest, self._guesses = highest, guesses
        self._number = self._left = 0

    async def reset(self, task: Task) -> Turn:
        if task.split not in SPLITS:
            raise ValueError(f"no split {task.split!r}; there are: {', '.join(SPLITS)}")
        self._number = task.random().randint(1, self._highest)
        self._left = self._guesses
        return Turn(_INTRODUCTION.format(highest=self._highest), info=self._info())

    async def step(self, action: str) -> Turn:
        self._left -= 1
        guess = number_of(action, self._highest)
        if guess == self._number:
            return Turn(reward=1.0, done=True, info=self._info())
        error = "" if guess is not None else f"Say a number from 1 to {self._highest}."
        said = f"It is {'higher' if (guess or 0) < self._number else 'lower'} than {guess}."
        # The action may have ended its line, or may not.
        ended = "" if action.endswith("\n") else "\n"
        return Turn(
            f"{ended}{error or said}\nGuess:",
            done=self._left == 0,
            error=error,
            info=self._info(),
        )

    def _info(self) -> dict[str, int]:
        return {"reference": self._number}


def number_of(action: str, highest: int) -> int | None:
    """The number that an action begins with, if it is 1 to `highest`."""
    found = re.match(r"\s*(\d{1,9})\b", action)
    number = int(found[1]) if found else 0
    return number if 1 <= number <= highest else None


def scores(highest: int = 8, guesses: int = 3) -> dict[str, float]:
    """The share of episodes that are won by: guessing blindly, guessing at random what the
    answers leave open, and the best play there is."""
    return {
        "random": 1 - (1 - 1 / highest) ** guesses,
        "consistent": _consistent(highest, guesses),
        "best": _best(highest, guesses) / highest,
    }


@cache
def _consistent(left: int, guesses: int) -> float:
    """`left` numbers are open; the guess and the number are each one of them."""
    if left <= 0 or guesses == 0:
        return 0.0
    won = 0.0
    for guess in range(left):  # the number is below, hit, or above
        won += 1 / left
        won += guess / left * _consistent(guess, guesses - 1)
        won += (left - guess - 1) / left * _consistent(left - guess - 1, guesses - 1)
    return won / left


@cache
def _best(left: int, guesses: int) -> int:
    """How many of `left` numbers can be found for sure."""
    return min(left, (1 << guesses) - 1)
