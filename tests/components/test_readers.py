"""Other tools read our Parquet files: pandas, DuckDB and Hugging Face's datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.samples import row, transition
from tuft_components.batches import BATCH, write_batch
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.trajectories import TRAJECTORIES, write_trajectories

pytestmark = pytest.mark.slow  # pandas and datasets take seconds to import


@pytest.fixture
def trajectories(tmp_path: Path) -> str:
    uri = str(tmp_path / "trajectories")  # as KFP names it: without a suffix
    write_trajectories(uri, [transition(sample=n, env_reward=n / 2) for n in range(3)], {})
    return uri


@pytest.fixture
def batch(tmp_path: Path) -> str:
    uri = str(tmp_path / "batch.parquet")
    write_batch(uri, [row(sample=n) for n in range(3)], {})
    return uri


def test_pandas(trajectories: str, batch: str) -> None:
    import pandas

    frame = pandas.read_parquet(trajectories)
    assert list(frame.columns) == TRAJECTORIES.columns.names
    assert frame["env_reward"].mean() == 0.5
    assert frame["completion_tokens"][0].tolist() == [8, 9]
    assert frame["logprobs"][2].tolist() == [-0.25, -1.5]
    assert set(frame["env"]) == {"second_word"}
    assert list(pandas.read_parquet(batch).columns) == BATCH.columns.names


def test_duckdb_over_all_that_was_kept(tmp_path: Path) -> None:
    import duckdb

    for shard in range(2):
        kept = KeptEpisodes(
            str(tmp_path), "rollout-000001", shard=shard, shards=2, decided_by={"seed": 1}
        )
        kept.add(shard, [transition(group_id=shard, sample=n, env_reward=n) for n in range(4)])
    groups = duckdb.sql(
        "select env, group_id, avg(env_reward), sum(len(completion_tokens)), "
        "any_value(info->>'reference') "
        f"from read_parquet('{tmp_path}/episodes/rollout-000001/**/*.parquet') "
        "group by env, group_id order by group_id"
    )
    assert groups is not None
    assert groups.fetchall() == [("second_word", n, 1.5, 8, "b") for n in range(2)]


def test_datasets(
    trajectories: str, batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    for uri, columns in ((trajectories, TRAJECTORIES.columns), (batch, BATCH.columns)):
        loaded = load_dataset(
            "parquet", data_files=uri, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert loaded.column_names == columns.names
        assert loaded[0]["completion_tokens"] == [8, 9]
        # The types are those of the schema.
        assert loaded.features.arrow_schema.remove_metadata() == columns
