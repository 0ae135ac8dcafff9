"""Whatever a step is given: it ends with the right exit code and says what to do, on stderr and in the
termination log, as a command and as Kubeflow's launcher calls it."""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.components.samples import transition
from tests.sdk_ext.web import Answer, web
from tuft_components.cli import main
from tuft_components.trajectories import Trajectory, write_trajectories


def raising(trajectory: Trajectory) -> float:
    """A user's reward with a mistake."""
    raise KeyError("answer")


class Raising:
    """A user's environment whose data are not there."""

    def reset(self, task: object) -> object:
        raise FileNotFoundError("questions.json")

    def step(self, action: str) -> object:
        raise AssertionError("no episode of it begins")


@dataclass(frozen=True)
class Bad:
    """A step with bad input; `inputs` names files that the test makes."""

    step: str
    code: int
    says: str
    params: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    values: tuple[str, ...] = ()


HERE = "tests.components.test_bad_input"
ROLLOUT: dict[str, Any] = {"step": "rollout", "outputs": ("trajectories",), "values": ("uri",)}
FEEDBACK: dict[str, Any] = {"step": "feedback", "outputs": ("batch",), "values": ("mean_reward",)}
UPDATE: dict[str, Any] = {"step": "update", "values": ("policy", "checkpoint")}
EPISODES = {"trajectories": "episodes"}

CASES = {
    "no address": Bad(
        "start_run", 78, "TINKER_BASE_URL is not set: give the address", env={"TINKER_BASE_URL": ""}
    ),
    "missing secret": Bad(
        "start_run", 78, "TINKER_API_KEY is not set: give your key", env={"TINKER_API_KEY": ""}
    ),
    "service away": Bad("start_run", 75, "no connection to the service", {"timeout_s": "0.3"}),
    "wrong key": Bad("start_run", 78, "401: who are you", env={"TINKER_BASE_URL": "web"}),
    "no bucket": Bad(
        **UPDATE,
        code=65,
        says="s3://bucket/b does not exist (NoSuch",
        params={"run_id": "r"},
        inputs={"batch": "s3://bucket/b"},
        env={"AWS_ENDPOINT_URL": "web"},
    ),
    "no address of the store": Bad(
        **UPDATE,
        code=78,
        says="AWS_ENDPOINT_URL (or MINIO_ENDPOINT) is not set",
        params={"run_id": "r"},
        inputs={"batch": "s3://bucket/b"},
    ),
    "environment that is not there": Bad(
        **ROLLOUT, code=78, says="can't import mine: ", params={"policy": "p", "env": "mine:Env"}
    ),
    "environment that raises": Bad(
        "preflight",
        78,
        "raised FileNotFoundError: questions.json (",
        {"env": f"{HERE}:Raising", "wait_s": "0.1"},
        outputs=("report",),
    ),
    "reward that is not there": Bad(
        **FEEDBACK,
        code=78,
        says="no reward 'bleu'; there are: env, exact_match, numeric, ",
        params={"reward": "bleu"},
        inputs=EPISODES,
    ),
    "reward that raises": Bad(
        **FEEDBACK,
        code=65,
        says="raised KeyError: 'answer' (",
        params={"reward": f"{HERE}:raising"},
        inputs=EPISODES,
    ),
    "batch of another schema": Bad(
        **UPDATE,
        code=65,
        says="has schema tuft.trajectories/3, but this step reads tuft.batch/1",
        params={"run_id": "r"},
        inputs={"batch": "episodes"},
    ),
    "empty rollout": Bad(
        **FEEDBACK, code=65, says="has no rows", inputs={"trajectories": "nothing"}
    ),
    "no records": Bad(
        "report",
        65,
        "holds no records of steps: give the pipeline's steps this same work_uri",
        {"work_uri": "/tmp/nobody-wrote-here"},
        outputs=("html",),
    ),
}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    files = {name: str(tmp_path / f"{name}.parquet") for name in ("episodes", "nothing")}
    write_trajectories(files["episodes"], [transition(), transition(sample=1)], {})
    write_trajectories(files["nothing"], [], {})
    return files


def _command(bad: Bad, given: Mapping[str, str], folder: Path) -> list[str]:
    arguments = [bad.step]
    for option, pairs in (
        ("--param", bad.params),
        ("--input", {name: given.get(uri, uri) for name, uri in bad.inputs.items()}),
        ("--output", {name: str(folder / name) for name in bad.outputs}),
    ):
        arguments += [text for n, value in pairs.items() for text in (option, f"{n}={value}")]
    return arguments


def _container(bad: Bad, given: Mapping[str, str], folder: Path) -> list[str]:
    def artifact(uri: str) -> dict[str, Any]:
        return {"artifacts": [{"uri": uri}]}

    request = {
        "inputs": {
            "parameterValues": dict(bad.params),
            "artifacts": {n: artifact(given.get(uri, uri)) for n, uri in bad.inputs.items()},
        },
        "outputs": {
            "parameters": {n: {"outputFile": str(folder / n)} for n in bad.values},
            "artifacts": {n: artifact(str(folder / n)) for n in bad.outputs},
            "outputFile": str(folder / "executor_output.json"),
        },
    }
    return [bad.step, "--executor-input", json.dumps(request)]


# Kubeflow's launcher fetches what is in an object store; there the step sees a file.
FACES = [
    (face, name)
    for name, bad in CASES.items()
    for face in (_command, _container)
    if face is _command or not any(uri.startswith("s3://") for uri in bad.inputs.values())
]


@pytest.mark.parametrize(("face", "name"), FACES)
def test_bad_input_is_said_everywhere(
    face: Callable[[Bad, Mapping[str, str], Path], list[str]],
    name: str,
    given: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = CASES[name]
    log = tmp_path / "termination-log"
    log.touch()
    refusal = b"<Error><Code>NoSuchBucket</Code></Error>" if name == "no bucket" else b"who are you"
    status = 404 if name == "no bucket" else 401
    with web(Answer(status, refusal, {"Content-Type": "application/xml"})) as site:
        env = {
            "TINKER_BASE_URL": "http://127.0.0.1:9",
            "TINKER_API_KEY": "tml-k",
            "AWS_ENDPOINT_URL": "",
            "MINIO_ENDPOINT": "",
            "TERMINATION_LOG": str(log),
            **bad.env,
        }
        for variable, value in env.items():
            monkeypatch.setenv(variable, site.url if value == "web" else value)
        arguments = face(bad, given, tmp_path / "out")
        assert contextvars.copy_context().run(main, arguments) == bad.code
    said = capsys.readouterr()
    assert bad.says in said.err
    assert said.out == ""
    assert log.read_text().startswith(f"tuft-step {bad.step} (exit code {bad.code}): ")
    assert bad.says in log.read_text()
    assert not (tmp_path / "out" / "executor_output.json").exists()


def test_equal_rewards_are_no_error_but_said(
    given: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["feedback", "--input", f"trajectories={given['episodes']}"]
    arguments += ["--output", f"batch={tmp_path / 'b'}"]
    assert contextvars.copy_context().run(main, arguments) == 0
    assert "an update on this batch changes nothing" in caplog.text
