"""Records of steps below a work_uri."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.samples import transition
from tests.helpers.s3_server import S3Server
from tuft_components.artifacts import write_bytes
from tuft_components.errors import BadData
from tuft_components.steps import load_step
from tuft_components.trajectories import write_trajectories
from tuft_components.work import Work


@pytest.fixture(params=["folder", "s3"])
def work_uri(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    if request.param == "folder":
        return str(tmp_path / "work")
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.make_bucket("work")
    return f"s3://work/{tmp_path.name}"


def test_a_step_leaves_a_record(tmp_path: Path, work_uri: str) -> None:
    trajectories = str(tmp_path / "trajectories.parquet")
    write_trajectories(trajectories, [transition(sample=0), transition(sample=1)], {})
    batch = str(tmp_path / "batch.parquet")
    params = {"work_uri": work_uri, "iteration": 4}
    for _ in range(2):  # a step that is run again leaves one record
        load_step("feedback").execute(params, {"trajectories": trajectories}, {"batch": batch})
    (record,) = Work(work_uri).records()
    assert (record.step, record.iteration, record.artifacts) == ("feedback", 4, {"batch": batch})
    assert record.metrics["episodes"] == 2
    assert record.values == {"mean_reward": record.metrics["mean_reward"]}
    assert record.params["reward"] == "env"


def test_nothing_is_kept_without_a_place(tmp_path: Path) -> None:
    trajectories = str(tmp_path / "trajectories.parquet")
    write_trajectories(trajectories, [transition()], {})
    before = {path.name for path in tmp_path.iterdir()}
    load_step("feedback").execute(
        {}, {"trajectories": trajectories}, {"batch": str(tmp_path / "batch.parquet")}
    )
    assert {path.name for path in tmp_path.iterdir()} - before == {"batch.parquet"}


@pytest.mark.parametrize("text", ["{", "[]", '{"step": "update"}'])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    write_bytes(str(tmp_path / "records" / "x.json"), text.encode())
    with pytest.raises(BadData, match=r"records/x\.json is no record of a step"):
        Work(str(tmp_path)).records()
