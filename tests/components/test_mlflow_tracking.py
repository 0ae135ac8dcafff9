"""What steps tell MLflow, over real HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.components.samples import transition
from tests.helpers.mlflow_server import MlflowServer, mlflow_server
from tests.sdk_ext.web import Answer, web
from tuft_components.feedback.step import STEP as FEEDBACK
from tuft_components.mlflow_tracking import _NO_PARAMS, track
from tuft_components.steps import STEP_NAMES, load_step
from tuft_components.trajectories import write_trajectories
from tuft_components.work import Record


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    with mlflow_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield server


def record(step: str = "update", **more: Any) -> Record:
    fields: dict[str, Any] = {
        "params": {"work_uri": "s3://runs/1", "learning_rate": 0.1, "iteration": 0},
        "values": {"policy": "tinker://s:train:0/sampler_weights/p"},
        "metrics": {"loss:sum": -2.5},
        **more,
    }
    return Record(step=step, seconds=1.5, finished_at=100.0, artifacts={}, **fields)


def test_a_step_logs_what_it_measured(mlflow: MlflowServer, tmp_path: Path) -> None:
    trajectories = str(tmp_path / "t.parquet")
    write_trajectories(trajectories, [transition(), transition(sample=1, env_reward=0.0)], {})
    FEEDBACK.execute(
        {"work_uri": str(tmp_path / "work"), "advantage": "rloo"},
        {"trajectories": trajectories},
        {"batch": str(tmp_path / "b.parquet")},
    )
    (run,) = mlflow.runs.values()
    assert (run.experiment_id, run.status) == ("0", "FINISHED")
    assert ("feedback/mean_reward", 0, 0.5) in run.metrics
    assert run.tags["feedback.mean_reward"] == "0.5"
    assert run.tags["tuft.of"] == str(tmp_path / "work")
    assert run.params["feedback.advantage"] == "rloo"
    assert "feedback.work_uri" not in run.params


def test_steps_of_one_pipeline_share_a_run(mlflow: MlflowServer) -> None:
    track(record())
    track(record(iteration=1, metrics={"loss:sum": float("nan")}))
    track(record("rollout", shard=2, metrics={}))
    track(record(params={"work_uri": "s3://runs/2"}))
    first, second = mlflow.runs.values()
    assert first.metrics == [
        ("update/loss.sum", 0, -2.5),
        ("update/seconds", 0, 1.5),
        ("update/loss.sum", 1, "NaN"),
        ("update/seconds", 1, 1.5),
        ("rollout/shard-2/seconds", 0, 1.5),
    ]
    assert second.tags["tuft.of"] == "s3://runs/2"


def test_without_a_work_uri_the_training_run_tells(mlflow: MlflowServer) -> None:
    track(record("start_run", params={}, values={"run_id": "s:train:0"}))
    track(record("evaluate", params={"policy": "tinker://s:train:0/sampler_weights/p"}, values={}))
    (run,) = mlflow.runs.values()
    assert run.tags["tuft.of"] == "s:train:0"


def test_two_steps_that_begin_at_once_take_the_same_run(mlflow: MlflowServer) -> None:
    mlflow.rival_with_next = True
    track(record())
    rival, mine = mlflow.runs.values()
    assert mine.deleted
    assert rival.metrics


def test_the_run_and_the_experiment_can_be_named(
    mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "agents")
    track(record())
    track(record("evaluate"))
    assert mlflow.experiments == {"agents": "1"}
    (run,) = mlflow.runs.values()
    assert run.experiment_id == "1"
    run.status = "RUNNING"
    monkeypatch.setenv("MLFLOW_RUN_ID", run.run_id)
    track(record(params={"work_uri": "s3://other"}))
    assert run.status == "RUNNING"  # it is its maker's
    assert len(mlflow.runs) == 1


@pytest.mark.parametrize(
    ("env", "sent"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        (
            {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"},
            "Basic " + base64.b64encode(b"u:p").decode(),
        ),
    ],
)
def test_credentials_are_sent(
    env: dict[str, str], sent: str, mlflow: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    track(record())
    assert set(mlflow.authorization) == {sent}


def test_a_parameter_that_changed_is_said_and_the_metrics_are_there(
    mlflow: MlflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    track(record())
    track(record(params={"work_uri": "s3://runs/1", "learning_rate": 0.2}))
    (run,) = mlflow.runs.values()
    assert len(run.metrics) == 4
    assert "the step update is done, but MLflow was not told: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://127.0.0.1:9", "refused"),
        ("sqlite:///mlruns.db", "must begin with http"),
        ("http://[", ""),
    ],
)
def test_an_mlflow_that_is_away_fails_no_step(
    uri: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    track(record())
    said = capsys.readouterr().err
    assert said.startswith("the step update is done, but MLflow was not told: ")
    assert says in said


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(200, b"<html>"), "no JSON"),
        (Answer(200, b"[]"), "no object"),
        (Answer(401, b"who?"), "401: who?"),
        (Answer(200, b'{"runs": [{}]}'), "another server?"),
    ],
)
def test_another_server_fails_no_step(
    answer: Answer, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with web(answer) as site:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", site.url)
        track(record())
    assert says in capsys.readouterr().err


def test_without_a_name_nothing_is_guessed(
    mlflow: MlflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    track(record(params={}, values={}))
    assert "Set MLFLOW_RUN_ID, or give the step a work_uri" in capsys.readouterr().err
    assert mlflow.runs == {}


def test_what_segments_of_a_loop_hand_on_is_no_parameter() -> None:
    handed_on = {name for name in load_step("train_loop").params.model_fields if "before" in name}
    assert handed_on == {"policy_before", "checkpoint_before", "reward_before"}
    assert handed_on <= _NO_PARAMS
    known = {name for step in STEP_NAMES for name in load_step(step).params.model_fields}
    assert known >= _NO_PARAMS
