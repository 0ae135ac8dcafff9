from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.components.samples import transition
from tuft_components.errors import BadConfiguration, BadData, TransientFailure
from tuft_components.rewards import reward_function, rewards_of
from tuft_components.trajectories import Trajectory

EPISODE = Trajectory(
    [
        transition(env_reward=0.5, completion_text="b", done=False),
        transition(turn=1, env_reward=0.25, completion_text=" c d"),
    ]
)


def length(trajectory: Trajectory) -> int:
    """A user's reward function, found by its import path."""
    return len(trajectory.transitions)


def scaled(trajectory: Trajectory, *, scale: float = 1.0) -> np.float32:
    return np.float32(scale * len(trajectory.transitions))


class Ranked:
    """Judges all at once, and then tells what came out."""

    def __init__(self, *, best: float) -> None:
        if best < 0:
            raise ValueError("best is negative")
        self.best = best
        self.known: dict[tuple[int, int, int], float] = {}

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        lengths = [len(trajectory.transitions) for trajectory in trajectories]
        for trajectory, length in zip(trajectories, lengths, strict=True):
            self.known[trajectory.key] = self.best * length / max(lengths)

    def __call__(self, trajectory: Trajectory) -> float:
        return self.known[trajectory.key]


def raising(trajectory: Trajectory) -> float:
    raise KeyError("no such thing")


def away(trajectory: Trajectory) -> float:
    raise TimeoutError


def broken(trajectory: Trajectory) -> float:
    return float("nan")


def test_env_sums_over_turns() -> None:
    assert rewards_of("env", [EPISODE]).tolist() == [0.75]


def test_exact_match_judges_the_last_completion() -> None:
    right = Trajectory([transition(completion_text=" b\n", info={"reference": "b"})])
    assert rewards_of("exact_match", [EPISODE, right]).tolist() == [0.0, 1.0]


def test_exact_match_needs_a_reference() -> None:
    with pytest.raises(BadData, match=r'info\["reference"\].*its info has: answer'):
        rewards_of("exact_match", [Trajectory([transition(info={"answer": "b"})])])


def test_a_reward_by_import_path() -> None:
    assert rewards_of("tests.components.test_rewards:length", [EPISODE]).tolist() == [2.0]


def test_a_reward_that_is_no_number_is_named() -> None:
    with pytest.raises(BadData, match=r"gave nan for .* \(0, 0, 0\)"):
        rewards_of("tests.components.test_rewards:broken", [EPISODE])


SHORT = Trajectory([transition(group_id=1)])


def test_arguments_go_to_the_function() -> None:
    rewards = rewards_of(f"{__name__}:scaled", [EPISODE], {"scale": 0.25})
    assert rewards.tolist() == [0.5]


def test_a_class_judges_all_at_once() -> None:
    rewards = rewards_of(f"{__name__}:Ranked", [SHORT, EPISODE], {"best": 3})
    assert rewards.tolist() == [1.5, 3.0]


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        (f"{__name__}:scaled", {"scal": 1}, "reward_args {'scal': 1}: .*'scal'"),
        ("env", {"x": 1}, "reward env with reward_args {'x': 1}: .*'x'"),
        (f"{__name__}:Ranked", {}, "missing .*'best'"),
        (f"{__name__}:Ranked", {"best": -1}, "best is negative"),
        ("no_such_module:reward", {}, "can't import no_such_module.*on PYTHONPATH"),
        (f"{__name__}:nothing", {}, "has no 'nothing'"),
    ],
)
def test_what_a_reward_does_not_take_is_told_before_anything_is_judged(
    name: str, args: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadConfiguration, match=says):
        reward_function(name, args)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0", r"importing mine raised ZeroDivisionError: .* \(.*mine\.py, line 1\)"),
        ("def f(:", r"importing mine raised SyntaxError: .* \(.*mine\.py, line 1\)"),
        ("import nowhere", "can't import mine: No module named 'nowhere'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_bad_configuration(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadConfiguration, match=says):
        reward_function("mine:f")


def test_what_a_reward_raises_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(BadData, match=r"raising, for .* \(0, 0, 0\), raised KeyError: 'no such"):
        rewards_of(f"{__name__}:raising", [EPISODE])
    assert 'raise KeyError("no such thing")' in caplog.text
    with pytest.raises(TransientFailure, match="raised TimeoutError"):
        rewards_of(f"{__name__}:away", [EPISODE])


def test_an_unknown_reward_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfiguration, match="there are: env, exact_match"):
        rewards_of("bleu", [EPISODE])
