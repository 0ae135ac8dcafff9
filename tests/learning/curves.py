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
        chance: mean reward of acting at random; None: it is measured. best: of the best play.
        reach: the held-out mean reward that learning should end at, or above.
        warm_start: episodes of a player that acts at random, which the model imitates first (and
            so learns to name an action, but not which); 0: no warm start.
        answers: what that player says where the environment gives no list.
        note: what a reader should know.
    """

    env: str
    segments: int
    iterations: int
    chance: float | None
    best: float
    reach: float
    env_args: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    warm_start: int = 0
    answers: tuple[str, ...] = ()
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
        iterations=5,
        chance=_GUESSING["random"],
        best=_GUESSING["best"],
        reach=0.5,
        params={
            "groups": 16,
            "group_size": 8,
            "max_tokens": 4,
            "max_turns": 3,
            "learning_rate": 5e-4,
            "advantage": "grpo",
        },
        warm_start=192,
        answers=tuple("12345678"),
        note="Playing anything that the answers leave open wins "
        f"{_GUESSING['consistent']:.2f}; the best play is to halve what is left.",
    ),
    "webshop": Curve(
        env="webshop",
        env_args={"mode": "words", "shelf": "mixed", "products": 40, "values": 2},
        segments=4,
        iterations=5,
        chance=None,
        best=1.0,
        reach=0.8,
        params={
            "groups": 16,
            "group_size": 8,
            "max_tokens": 8,
            "max_turns": 4,
            "learning_rate": 5e-4,
        },
        warm_start=384,
        note="The generated catalogue, played by naming; goals of other products evaluate.",
    ),
    "miniwob": Curve(
        env="miniwob:click-button",
        env_args={"mode": "words", "reward": "binary"},
        segments=4,
        iterations=5,
        chance=None,
        best=1.0,
        reach=0.8,
        params={
            "groups": 16,
            "group_size": 8,
            "max_tokens": 8,
            "max_turns": 2,
            "learning_rate": 5e-4,
        },
        warm_start=192,
        note="In a real Chromium, by naming.",
    ),
    "voyager": Curve(
        env="voyager:planks",
        env_args={"mode": "words"},
        segments=4,
        iterations=4,
        chance=None,
        best=1.0,
        reach=0.8,
        params={
            "groups": 8,
            "group_size": 8,
            "max_tokens": 8,
            "max_turns": 3,
            "learning_rate": 5e-4,
        },
        warm_start=192,
        note="Macro actions by naming, on our own Minecraft server.",
    ),
}
