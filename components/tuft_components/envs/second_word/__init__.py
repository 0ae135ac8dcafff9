"""The "second word" task: say the second of two words, shown by two examples.

A model of 135M parameters learns it in a few updates, so that a demo or a test can show that
training works. `words.txt` has short common English words; each word belongs to exactly one
split by its hash, so that evaluation uses words never trained on.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.rewards.exact_match import first_word

_PROMPT = "Second word.\ncat dog -> dog\nsun ice -> ice\n{first} {second} ->"


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

    def __init__(self) -> None:
        self._second = ""

    async def reset(self, task: Task) -> Turn:
        first, self._second = task.random().sample(words_of(task.split), 2)
        prompt = _PROMPT.format(first=first, second=self._second)
        return Turn(prompt, info={"reference": self._second})

    async def step(self, action: str) -> Turn:
        right = first_word(action) == self._second
        return Turn(reward=float(right), done=True, info={"reference": self._second})
