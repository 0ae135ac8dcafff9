"""Write a small Python function; unit tests say whether it is right, in a sandbox.

The tasks come with us (`tasks.json`): every fourth is of the split `eval`. A text ends where a
block of code begins, so that a model goes on with the code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.sandbox import Limits, sandbox
from tuft_components.sandbox.tested import Tested, code_in, test_job, tested

_BEGIN = "```python\n"
_TEST_S = 1.0


@dataclass(frozen=True)
class Exercise:
    """What is asked for, a right answer, and its tests."""

    name: str
    text: str
    solution: str
    tests: Sequence[str]


class Code:
    """The reward of an episode is the largest share of the tests that an attempt passed.

    Args:
        attempts: programs that may be tried; after a wrong one the first error is told.
        credit: `share` of the tests, or `all` for 1 where all pass, else 0.
        longest: letters of an answer; a longer one fails.
    """

    stop = ("```",)
    at_once = 32  # a call's time holds its wait for a sandbox: all may loop until their limits

    def __init__(self, *, attempts: int = 1, credit: str = "share", longest: int = 10_000) -> None:
        if attempts < 1 or longest < 1:
            raise ValueError("attempts and longest must be 1 or more")
        if credit not in ("share", "all"):
            raise ValueError(f"credit is {credit!r}; there are: share, all")
        self._attempts, self._all, self._longest = attempts, credit == "all", longest
        self._left, self._best = 0, 0.0
        sandbox().check()

    def reset(self, task: Task) -> Turn:
        self._exercise = task.random().choice(exercises(task.split))
        self._left, self._best = self._attempts, 0.0
        return Turn(f"{self._exercise.text}\n{_BEGIN}", info=self._info())

    def step(self, action: str) -> Turn:
        self._left -= 1
        result = self._tested(action)
        share = float(result.share == 1) if self._all else result.share
        gained, self._best = max(0.0, share - self._best), max(self._best, share)
        wrong = next((text for text in result.wrong if text), "")
        done = not wrong or self._left == 0
        said = "" if done else f"{_ended(action)}Wrong: {wrong}\nOnce more:\n{_BEGIN}"
        info = {**self._info(), "passed": result.passed}
        return Turn(said, reward=gained, done=done, error=wrong, info=info)

    def _tested(self, action: str) -> Tested:
        tests = self._exercise.tests
        if len(action) > self._longest:
            return Tested([f"more than {self._longest} letters"] * len(tests))
        job = test_job(code_in(action), tests, Limits(), _TEST_S)
        return tested(sandbox().run(job), tests)

    def _info(self) -> dict[str, Any]:
        return {"task": self._exercise.name, "tests": list(self._exercise.tests)}


def _ended(action: str) -> str:
    """What ends the block of an action: a policy that stops at the fence has said it, or not."""
    if action.rstrip().endswith("```"):
        return "" if action.endswith("\n") else "\n"
    return "```\n" if action.endswith("\n") else "\n```\n"


def exercises(split: str) -> list[Exercise]:
    """Those of a split.

    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are: {', '.join(SPLITS)}")
    return [each for place, each in enumerate(_all()) if (place % 4 == 3) == (split == "eval")]


@cache
def _all() -> list[Exercise]:
    text = (files(__package__) / "tasks.json").read_text()
    return [Exercise(**each) for each in json.loads(text)]
