"""The feedback step, whole: Parquet in, Parquet out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.components.samples import transition
from tuft_components.batches import BATCH, read_batch
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.feedback.step import STEP
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.tables import TableSchema, read_table, write_table
from tuft_components.trajectories import TRAJECTORIES, Trajectory, write_trajectories


def seven(trajectory: Trajectory) -> int:
    """A reward that says nothing."""
    return 7


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


def test_shards_and_the_input_are_one_batch_in_canonical_order(tmp_path: Path) -> None:
    """A rollout in three parts: an artifact, a file, and a prefix that was kept."""
    kept = KeptEpisodes(str(tmp_path), "rollout-000000", shard=2, shards=3, decided_by={})
    kept.add(2, [transition(group_id=2, sample=n, env_reward=n) for n in (1, 0)])
    for group_id in (0, 1):
        group = [transition(group_id=group_id, sample=n, env_reward=n) for n in (0, 1)]
        write_trajectories(str(tmp_path / f"{group_id}"), group, {})
    batch = str(tmp_path / "b")
    outputs = STEP.execute(
        {"trajectories_uris": json.dumps([kept.uri, str(tmp_path / "0")])},
        {"trajectories": str(tmp_path / "1")},
        {"batch": batch},
    )
    rows = read_table(batch, BATCH)  # in the file's order
    assert [(row["group_id"], row["sample"]) for row in rows] == [
        (group_id, sample) for group_id in range(3) for sample in range(2)
    ]
    assert outputs.metrics["groups_with_signal"] == 3


def test_without_trajectories_it_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="give the input `trajectories`, or URIs in"):
        STEP.execute({}, {}, {"batch": str(tmp_path / "b")})


def test_an_empty_rollout_is_bad_data(tmp_path: Path) -> None:
    write_trajectories(str(tmp_path / "t"), [], {})
    with pytest.raises(BadData, match="t has no rows: the rollout that wrote it played no episode"):
        STEP.execute({}, {"trajectories": str(tmp_path / "t")}, {"batch": str(tmp_path / "b")})


def test_equal_rewards_are_told_and_make_a_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batch, outputs = _run(tmp_path, reward="tests.components.test_feedback:seven")
    assert outputs.metrics["groups_with_signal"] == 0  # type: ignore[attr-defined]
    assert outputs.metrics["std_reward"] == 0  # type: ignore[attr-defined]
    assert all(set(row.advantages) == {0} for row in read_batch(str(batch)))
    assert "no group has rewards that differ (mean 7.000 over 3 episodes)" in caplog.text


def test_a_reward_gets_its_arguments(tmp_path: Path) -> None:
    name = "tests.components.test_rewards:scaled"
    batch, _ = _run(tmp_path, reward=name, reward_args='{"scale": 2}')
    assert [row.reward for row in read_batch(str(batch))] == [2, 2, 4, 4]


def test_trajectories_of_another_version_are_refused(tmp_path: Path) -> None:
    """As those of the first release, which did not have the environment."""
    old = pa.schema([field for field in TRAJECTORIES.columns if field.name != "env"])
    write_table(str(tmp_path / "t"), TableSchema("tuft.trajectories/1", old), [])
    says = (
        r"tuft\.trajectories/1, but this step reads tuft\.trajectories/3: another version of tuft"
    )
    with pytest.raises(BadData, match=says):
        STEP.execute({}, {"trajectories": str(tmp_path / "t")}, {"batch": str(tmp_path / "b")})


def test_an_unknown_advantage_costs_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no advantage 'gae'"):
        _run(tmp_path, advantage="gae")
    assert not (tmp_path / "b.parquet").exists()
