"""What is learnt, how, and what a curve should reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuft_components.envs import number_guess


@dataclass(frozen=True)
class Curve:
    """One environment with the settings it is learnt with.

    Args:
        params: of the pipeline, beside `env` and `env_args`.
        segments: each of `iterations` iterations and an evaluation.
        chance: mean reward of acting at random, computed; best: of the best play there is.
        reach: the held-out mean reward that learning should end at, or above.
        examples: texts for a supervised warm start, as a file of rows; None: no warm start.
        note: what a reader should know.
    """

    env: str
    segments: int
    iterations: int
    chance: float
    best: float
    reach: float
    env_args: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


_GUESSING = number_guess.scores()

CURVES: Mapping[str, Curve] = {
    "second_word": Curve(
        env="second_word",
        segments=4,
        iterations=3,
        # Blindly one of some hundred words; the model itself starts at about 0.3.
        chance=0.0,
        best=1.0,
        reach=0.8,
        params={"groups": 8, "group_size": 8, "max_tokens": 2, "learning_rate": 3e-4},
    ),
    "number_guess": Curve(
        env="number_guess",
        segments=6,
        iterations=8,
        chance=_GUESSING["random"],
        best=_GUESSING["best"],
        reach=0.5,
        params={"groups": 32, "group_size": 8, "max_tokens": 4, "learning_rate": 1e-4},
        note="Playing anything that the answers leave open wins "
        f"{_GUESSING['consistent']:.2f}; the best play is to halve what is left.",
    ),
}
