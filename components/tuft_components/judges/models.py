"""What the rewards need of a judge, wherever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Question:
    """`cue` is what the text ends with for a model that only goes on with texts: `Score:`, say."""

    text: str
    cue: str


@dataclass(frozen=True)
class Reply:
    """
    Args:
        text: what it answered.
        tokens: of question and answer together.
        cut_off: whether the answer was ended by its length.
        refused: why this question could not be answered at all; others may be.
    """

    text: str
    tokens: int
    cut_off: bool = False
    refused: str = ""


class JudgeModel(Protocol):
    @property
    def name(self) -> str:
        """What tells it from other judges: a changed name means other answers."""
        ...

    @property
    def chat(self) -> bool:
        """Whether it takes questions as messages; else it goes on with their text and cue."""
        ...

    async def ask(self, question: Question, *, temperature: float, seed: int) -> Reply:
        """Raises:
        TransientFailure, tuft_sdk.Transient: the judge is away.
        BadConfiguration: it will answer no question.
        """
        ...

    async def close(self) -> None:
        """Let go of its connections."""
        ...
