"""Environments of users who made a mistake, found by their import path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from tuft_components.envs.base import StepResult


class _Task:
    def __init__(self, first: str) -> None:
        self._first = first

    @property
    def info(self) -> dict[str, str]:
        return {}

    async def initial_observation(self) -> str:
        return self._first

    async def step(self, action: str) -> StepResult:
        return StepResult(reward=0.0, done=True)


class Forgetful:
    """Its tasks follow from how often it was asked, not from the index."""

    stop: Sequence[str] = ()

    def __init__(self) -> None:
        self._asked: Iterator[int] = count()

    def episode(self, *, split: str, seed: int, index: int) -> _Task:
        return _Task(f"task {next(self._asked)}")


class Broken:
    """Its data are not there."""

    stop: Sequence[str] = ()

    def episode(self, *, split: str, seed: int, index: int) -> _Task:
        raise KeyError("questions")
