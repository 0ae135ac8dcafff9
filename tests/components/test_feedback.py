"""The feedback step, whole: Parquet in, Parquet out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.samples import transition
from tuft_components.batches import read_batch
from tuft_components.errors import BadConfiguration
from tuft_components.feedback.step import STEP
from tuft_components.trajectories import write_trajectories


def _run(tmp_path: Path, **params: object) -> tuple[Path, object]:
    trajectories = tmp_path / "t.parquet"
    write_trajectories(
        str(trajectories),
        [
            transition(sample=0, completion_text=" b", env_reward=0.0),
            transition(sample=1, completion_text=" c", env_reward=1.0, stop_reason="stop"),
            transition(group_id=1, turn=0, done=False, env_reward=0.5),
            transition(group_id=1, turn=1, completion_text="b", env_reward=0.5),
        ],
        {},
    )
    batch = tmp_path / "b.parquet"
    outputs = STEP.execute(params, {"trajectories": str(trajectories)}, {"batch": str(batch)})
    return batch, outputs


def test_rewards_become_advantages_of_every_token(tmp_path: Path) -> None:
    batch, outputs = _run(tmp_path, reward="exact_match", advantage="grpo_no_std")
    rows = read_batch(str(batch))
    assert [row.reward for row in rows] == [1.0, 0.0, 1.0, 1.0]
    assert [list(row.advantages) for row in rows] == [[0.5, 0.5], [-0.5, -0.5], [0, 0], [0, 0]]
    assert all(list(row.mask) == [1.0, 1.0] for row in rows)
    assert list(rows[0].logprobs) == [-0.25, -1.5]
    assert outputs.model_dump()["mean_reward"] == pytest.approx(2 / 3)  # type: ignore[attr-defined]


def test_the_environments_own_reward_is_summed_over_turns(tmp_path: Path) -> None:
    batch, outputs = _run(tmp_path)
    assert [row.reward for row in read_batch(str(batch))] == [0.0, 1.0, 1.0, 1.0]
    metrics = outputs.metrics  # type: ignore[attr-defined]
    assert metrics["episodes"] == 3
    assert metrics["groups"] == 2
    assert metrics["groups_with_signal"] == 1
    assert metrics["mean_turns"] == pytest.approx(4 / 3)


def test_truncated_completions_can_be_masked(tmp_path: Path) -> None:
    batch, _ = _run(tmp_path, drop_truncated="true")
    assert [sum(row.mask) for row in read_batch(str(batch))] == [0, 2, 0, 0]


def test_an_unknown_advantage_costs_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no advantage 'gae'"):
        _run(tmp_path, advantage="gae")
    assert not (tmp_path / "b.parquet").exists()
