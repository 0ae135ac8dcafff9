"""Environments of users who made a mistake, found by their import path."""

from __future__ import annotations

from itertools import count

from tuft_components.envs.base import Task, Turn

_ASKED = count()


class Forgetful:
    """Its tasks follow from how often it was asked, not from the index."""

    def reset(self, task: Task) -> Turn:
        return Turn(f"task {next(_ASKED)}")

    def step(self, action: str) -> Turn:
        return Turn(done=True)


class Broken:
    """Its data are not there."""

    def reset(self, task: Task) -> Turn:
        raise KeyError("questions")

    def step(self, action: str) -> Turn:
        return Turn(done=True)
