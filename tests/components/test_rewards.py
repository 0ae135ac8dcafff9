from __future__ import annotations

import pytest

from tests.components.samples import transition
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.rewards import rewards_of
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


def test_an_unknown_reward_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfiguration, match="there are: env, exact_match"):
        rewards_of("bleu", [EPISODE])
