"""The "second word" task: say the second of two words, shown by two examples.

A model of 135M parameters learns it in a few updates, so that a demo or a test can show that
training works. `words.txt` has short common English words; each word belongs to exactly one
split by its hash, so that evaluation uses words never trained on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from tuft_components.envs.base import Observation, StepResult
from tuft_components.rewards.exact_match import first_word

_PROMPT = "Second word.\ncat dog -> dog\nsun ice -> ice\n{first} {second} ->"
SPLITS = ("train", "eval")


@cache
def words_of(split: str) -> tuple[str, ...]:
    """The words of a split: a quarter of the list evaluates, the rest trains."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    words = files(__package__).joinpath("words.txt").read_text().split()
    return tuple(word for word in words if (_bucket(word) == 0) == (split == "eval"))


def _bucket(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 4


class SecondWord:
    """Reward 1 for the exact second word, else 0; one turn. Two new tokens are enough."""

    @property
    def stop(self) -> Sequence[str]:
        return ()

    def episode(self, *, split: str, seed: int, index: int) -> SecondWordEpisode:
        words = words_of(split)
        first, second = random.Random(f"{split}/{seed}/{index}").sample(words, 2)
        return SecondWordEpisode(first, second)


class SecondWordEpisode:
    def __init__(self, first: str, second: str) -> None:
        self._first = first
        self._second = second

    @property
    def info(self) -> Mapping[str, Any]:
        return {"reference": self._second}

    async def initial_observation(self) -> Observation:
        return _PROMPT.format(first=self._first, second=self._second)

    async def step(self, action: str) -> StepResult:
        right = first_word(action) == self._second
        return StepResult(reward=1.0 if right else 0.0, done=True)
