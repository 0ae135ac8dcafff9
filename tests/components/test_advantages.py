"""Advantages against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tuft_components.errors import BadConfiguration
from tuft_components.rl.advantages import ESTIMATORS, estimator

REWARDS = np.array([1.0, 0.0, 0.0, 0.0, 2.0, 4.0])
GROUPS = np.array([0, 0, 0, 0, 1, 1])


def test_grpo() -> None:
    # Group 0: mean 1/4, population std sqrt(3)/4. Group 1: mean 3, std 1.
    root = np.sqrt(3)
    expected = [3 / root, -1 / root, -1 / root, -1 / root, -1, 1]
    np.testing.assert_allclose(estimator("grpo")(REWARDS, GROUPS), expected, rtol=1e-5)


def test_grpo_no_std() -> None:
    expected = [0.75, -0.25, -0.25, -0.25, -1, 1]
    np.testing.assert_allclose(estimator("grpo_no_std")(REWARDS, GROUPS), expected)


def test_rloo() -> None:
    # Of the first: 1 - mean(0, 0, 0); of the second: 0 - mean(1, 0, 0).
    expected = [1, -1 / 3, -1 / 3, -1 / 3, -2, 2]
    np.testing.assert_allclose(estimator("rloo")(REWARDS, GROUPS), expected, rtol=1e-6)


def test_reinforce_pp() -> None:
    # Of all six: mean 7/6, variance 21/6 - 49/36 = 77/36.
    expected = (REWARDS - 7 / 6) / np.sqrt(77 / 36)
    np.testing.assert_allclose(estimator("reinforce_pp")(REWARDS, GROUPS), expected, rtol=1e-5)


def test_mean_baseline() -> None:
    expected = REWARDS - 7 / 6
    np.testing.assert_allclose(estimator("mean_baseline")(REWARDS, GROUPS), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_rewards_give_exactly_zero(name: str) -> None:
    """0.1 is not exact in binary: a mean of its copies may differ from it in the last bit."""
    rewards = np.full(7, 0.1)
    assert not estimator(name)(rewards, np.zeros(7, dtype=int)).any()


@pytest.mark.parametrize("name", ["grpo", "grpo_no_std", "rloo"])
def test_a_group_of_one_says_nothing(name: str) -> None:
    assert estimator(name)(np.array([1.0]), np.array([5])).tolist() == [0.0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_order_does_not_matter(name: str) -> None:
    order = np.array([5, 2, 0, 3, 1, 4])
    shuffled = estimator(name)(REWARDS[order], GROUPS[order])
    np.testing.assert_array_equal(shuffled, estimator(name)(REWARDS, GROUPS)[order])
    assert shuffled.dtype == np.float32


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadConfiguration, match=r"no advantage 'ppo'; there are: grpo,.*rloo"):
        estimator("ppo")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"must both be \[N\]"):
        estimator("grpo")(REWARDS, GROUPS[:-1])
