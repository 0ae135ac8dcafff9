"""Returns of turns, their advantages, and shaped rewards, against values computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.components.samples import transition
from tuft_components.batches import read_batch
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.feedback.step import STEP
from tuft_components.rewards import rewards_of_turns
from tuft_components.rl.advantages import estimator
from tuft_components.rl.returns import returns_to_go, turn_advantages
from tuft_components.rl.shaping import (
    clipped,
    error_penalty,
    overlong_penalty,
    potential_shaping,
    scaled,
)
from tuft_components.trajectories import Trajectory, Transition, write_trajectories


def array(*values: float) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def test_returns_to_go() -> None:
    assert returns_to_go(array(1, 0, 4), 0.5).tolist() == [2.0, 2.0, 4.0]
    assert returns_to_go(array(1, 0, 4), 1.0).tolist() == [5.0, 4.0, 4.0]
    assert returns_to_go(array(), 1.0).tolist() == []


def test_turns_are_compared_with_the_same_turns_of_the_group() -> None:
    rewards = [array(1, 0), array(0, 0), array(0, 2)]  # the last one is a group of its own
    found = turn_advantages(rewards, np.array([0, 0, 1]), 1.0, estimator("grpo_no_std"))
    assert [each.tolist() for each in found] == [[0.5, 0.0], [-0.5, 0.0], [0.0, 0.0]]
    assert found[0].dtype == np.float32


def test_an_action_is_not_praised_for_what_came_before_it() -> None:
    first_right, second_right = array(1, 0), array(0, 1)
    found = turn_advantages(
        [first_right, second_right], np.array([0, 0]), 1.0, estimator("grpo_no_std")
    )
    assert [each.tolist() for each in found] == [[0.0, -0.5], [0.0, 0.5]]


def test_one_that_plays_on_alone_is_compared_with_those_that_ended() -> None:
    found = turn_advantages(
        [array(1), array(0, 0, 1)], np.array([0, 0]), 0.5, estimator("grpo_no_std")
    )
    # Returns: 1, and 0.25, 0.5, 1 against 1, 0, 0.
    assert [each.tolist() for each in found] == [[0.375], [-0.375, 0.25, 0.5]]


@pytest.mark.parametrize("name", ["grpo", "grpo_no_std", "rloo", "reinforce_pp", "mean_baseline"])
def test_one_turn_each_is_the_credit_of_episodes(name: str) -> None:
    rewards, groups = array(1, 0, 2, 4), np.array([0, 0, 1, 1])
    found = turn_advantages([array(reward) for reward in rewards], groups, 0.9, estimator(name))
    np.testing.assert_array_equal(np.concatenate(found), estimator(name)(rewards, groups))


def test_a_potential_adds_nothing_to_an_undiscounted_sum_but_its_start() -> None:
    shaping = potential_shaping(array(0.5, 0.75, 9), 1.0, start=0.25)
    assert shaping.tolist() == [0.25, 0.25, -0.75]
    assert shaping.sum() == -0.25


def test_a_potential_is_discounted() -> None:
    assert potential_shaping(array(1, 2), 0.5).tolist() == [0.5, -1.0]


def test_a_potential_keeps_the_order_of_policies() -> None:
    """Ng's theorem on all episodes of three turns with rewards and potentials of a few values."""
    gamma, random = 0.9, np.random.default_rng(0)
    plain, shaped = [], []
    for _ in range(50):
        rewards, potentials = random.integers(0, 3, 3), random.normal(size=3)
        plain.append(returns_to_go(rewards, gamma)[0])
        shaped.append(
            returns_to_go(rewards + potential_shaping(potentials, gamma, start=0.7), gamma)[0]
        )
    np.testing.assert_allclose(np.asarray(shaped), np.asarray(plain) - 0.7)


def test_overlong_answers() -> None:
    lengths = np.array([0, 8, 9, 10, 12, 13])
    assert overlong_penalty(lengths, 12, 4).tolist() == [0, 0, -0.25, -0.5, -1, -1]
    with pytest.raises(ValueError, match="0 < soft <= longest"):
        overlong_penalty(lengths, 12, 13)


def test_errors_cost() -> None:
    assert error_penalty(np.array([True, False]), 0.5).tolist() == [-0.5, 0.0]


def test_rewards_are_clipped() -> None:
    assert clipped(array(-3, 0.5, 7), -1, 1).tolist() == [-1, 0.5, 1]
    with pytest.raises(ValueError, match="lower bound first"):
        clipped(array(1), 1, 0)


def test_rewards_are_scaled_by_the_deviation_of_episodes() -> None:
    found = scaled([array(1, 3), array(0)])  # sums 4 and 0: deviation 2
    assert [each.tolist() for each in found] == [[0.5, 1.5], [0.0]]
    assert scaled([array(0.1), array(0.1)])[0].tolist() == [0.1]


class PerTurn:
    def __init__(self, *, turns: list[Any]) -> None:
        self._turns = turns

    def __call__(self, trajectory: Trajectory) -> float:
        return 3.0

    def turns(self, trajectory: Trajectory) -> list[Any]:
        return self._turns


def test_a_reward_may_tell_what_each_turn_was_worth() -> None:
    episode = Trajectory([transition(done=False), transition(turn=1)])
    (found,) = rewards_of_turns("r", PerTurn(turns=[1, 2]), [episode], array(3))
    assert found.tolist() == [1.0, 2.0]
    (found,) = rewards_of_turns("r", lambda _: 3.0, [episode], array(3))
    assert found.tolist() == [0.0, 3.0]
    with pytest.raises(BadData, match=r"gave 1 numbers in turns, for .* it has 2 turns"):
        rewards_of_turns("r", PerTurn(turns=[1]), [episode], array(3))
    with pytest.raises(BadData, match="gave nan in turns"):
        rewards_of_turns("r", PerTurn(turns=[1, float("nan")]), [episode], array(3))


def two_turns(sample: int, rewards: tuple[float, float], **last: Any) -> list[Transition]:
    return [
        transition(sample=sample, env_reward=rewards[0], done=False, info={"near": 0.5}),
        transition(sample=sample, turn=1, env_reward=rewards[1], **{"info": {"near": 1}, **last}),
    ]


def fed_back(tmp_path: Path, rows: list[Transition], **params: Any) -> tuple[list[float], Any]:
    """The advantages of the first token of each row, and the step's outputs."""
    write_trajectories(str(tmp_path / "t"), rows, {})
    batch = str(tmp_path / "b")
    outputs = STEP.execute(params, {"trajectories": str(tmp_path / "t")}, {"batch": batch})
    return [row.advantages[0] for row in read_batch(batch)], outputs


def test_credit_by_turns_through_the_step(tmp_path: Path) -> None:
    rows = two_turns(0, (1, 0)) + two_turns(1, (0, 1))
    found, outputs = fed_back(tmp_path, rows, credit="turn", gamma=1.0)
    assert found == [0.0, -0.5, 0.0, 0.5]
    assert outputs.mean_reward == 1.0
    assert outputs.metrics["groups_with_signal"] == 1
    found, outputs = fed_back(tmp_path, rows)
    assert found == [0.0] * 4
    assert outputs.metrics["groups_with_signal"] == 0


def test_shaping_changes_advantages_and_not_what_is_told(tmp_path: Path) -> None:
    rows = two_turns(0, (0, 1), error="say up or down") + two_turns(1, (0, 1))
    found, outputs = fed_back(tmp_path, rows, shaping='{"error_penalty": 0.5}')
    assert found == [-0.25, -0.25, 0.25, 0.25]
    assert outputs.mean_reward == 1.0
    assert outputs.metrics["mean_shaped_reward"] == 0.75
    assert [row.reward for row in read_batch(str(tmp_path / "b"))] == [1.0] * 4


def test_all_shapings_in_their_order(tmp_path: Path) -> None:
    rows = two_turns(0, (0, 9)) + two_turns(1, (0, 1))
    shaping = {"scale": True, "clip": [0, 1], "overlong_tokens": 2, "overlong_soft": 1}
    found, _ = fed_back(
        tmp_path, rows, credit="turn", shaping={**shaping, "potential": "near"}, gamma=0.5
    )
    # Sums 9 and 1, deviation 4: 2.25 is clipped to 1, 0.25 stays; the rest is the same for both.
    assert found == [0.1875, 0.375, -0.1875, -0.375]


def test_a_potential_that_is_not_told_is_bad_data(tmp_path: Path) -> None:
    rows = two_turns(0, (0, 1), info={"near": None})
    with pytest.raises(BadData, match=r"info\['near'\] of environment second_word is None in turn"):
        fed_back(tmp_path, rows, shaping={"potential": "near"})


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"shaping": {"lenght": 1}}, "shaping lenght: .*there are: scale, clip"),
        ({"shaping": {"clip": [1, 0]}}, "lower bound first"),
        ({"shaping": {"overlong_tokens": 3, "overlong_soft": 4}}, "not be more than"),
        ({"credit": "token"}, "credit"),
        ({"gamma": 1.1}, "gamma"),
    ],
)
def test_wrong_parameters_cost_nothing(tmp_path: Path, params: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfiguration, match=says):
        fed_back(tmp_path, two_turns(0, (0, 1)), **params)
    assert not (tmp_path / "b").exists()
