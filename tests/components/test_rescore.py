"""The rescore step: stored trajectories, another reward, and how the two compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.components.samples import transition
from tuft_components.batches import read_batch
from tuft_components.errors import BadData
from tuft_components.feedback.step import STEP as FEEDBACK
from tuft_components.rescore.correlation import pearson, ranks, spearman
from tuft_components.rescore.step import STEP
from tuft_components.trajectories import Trajectory, write_trajectories

REWARDS = [0.0, 1.0, 2.0, 3.0]
HERE = "tests.components.test_rescore"


def squared(trajectory: Trajectory) -> float:
    return trajectory.transitions[0].env_reward ** 2


def opposite(trajectory: Trajectory, *, offset: float = 0.0) -> float:
    return offset - trajectory.transitions[0].env_reward


def same(trajectory: Trajectory) -> float:
    return 0.5


@pytest.fixture
def trajectories(tmp_path: Path) -> str:
    uri = str(tmp_path / "t.parquet")
    rows = [transition(sample=n, env_reward=reward) for n, reward in enumerate(REWARDS)]
    write_trajectories(uri, rows, {})
    return uri


def test_what_the_environment_said_is_the_old_reward(tmp_path: Path, trajectories: str) -> None:
    batch = str(tmp_path / "b")
    outputs = STEP.execute(
        {"reward": f"{HERE}:squared", "trajectories_uris": [trajectories]}, {}, {"batch": batch}
    )
    assert [row.reward for row in read_batch(batch)] == [0, 1, 4, 9]
    assert outputs.mean_reward == outputs.metrics["mean_reward"] == 3.5
    assert outputs.metrics["old_mean_reward"] == 1.5
    assert outputs.metrics["reward_change"] == 2.0
    assert outputs.metrics["spearman"] == pytest.approx(1.0)
    assert outputs.metrics["pearson"] == pytest.approx(np.corrcoef(REWARDS, [0, 1, 4, 9])[0, 1])
    assert outputs.metrics["groups_with_signal"] == 1


def test_the_old_reward_can_be_that_of_a_batch(tmp_path: Path, trajectories: str) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    FEEDBACK.execute({"reward": f"{HERE}:opposite"}, {"trajectories": trajectories}, {"batch": old})
    outputs = STEP.execute(
        {"reward": f"{HERE}:opposite", "reward_args": {"offset": 2}},
        {"trajectories": trajectories, "old_batch": old},
        {"batch": new},
    )
    assert outputs.metrics["old_mean_reward"] == -1.5
    assert outputs.metrics["reward_change"] == 2.0
    assert outputs.metrics["spearman"] == pytest.approx(1.0)  # against the environment it is -1
    advantages = [row.advantages for row in read_batch(old)]
    assert [row.advantages for row in read_batch(new)] == advantages


def test_a_batch_of_other_episodes_is_refused(tmp_path: Path, trajectories: str) -> None:
    other, old = str(tmp_path / "other"), str(tmp_path / "old")
    write_trajectories(other, [transition(sample=n) for n in (0, 1)], {})
    FEEDBACK.execute({}, {"trajectories": other}, {"batch": old})
    with pytest.raises(BadData, match=r"lacks 2 of 4 episodes, the first one .* \(0, 0, 2\)"):
        STEP.execute(
            {}, {"trajectories": trajectories, "old_batch": old}, {"batch": str(tmp_path / "b")}
        )


def test_without_a_difference_there_is_no_correlation(tmp_path: Path, trajectories: str) -> None:
    outputs = STEP.execute(
        {"reward": f"{HERE}:same"}, {"trajectories": trajectories}, {"batch": str(tmp_path / "b")}
    )
    assert not {"pearson", "spearman"} & set(outputs.metrics)
    assert outputs.metrics["mean_reward"] == 0.5


def test_correlations() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 5.0]), np.array([8.0, 1.0, 3.0, 3.0])
    assert ranks(x).tolist() == [1, 2.5, 2.5, 4]
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [4, 1, 2.5, 2.5])[0, 1])
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert pearson(x * 1e-200, -x * 1e-200) == pytest.approx(-1.0)
    assert pearson(x[:1], y[:1]) is None
    assert spearman(x, np.full(4, 2.0)) is None
