"""submit, status, logs and resume, against servers that speak the needed part of the two APIs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.servers import ArgoWorkflows, KubeflowRuns, Server, serving
from tuft_pipelines.cli import main

SUBMIT = ["submit", "grpo_minimal", "--engine", "kfp", "--param", "name=gsm8k-1"]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KUBECONFIG", "ARGO_SERVER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kubeflow() -> KubeflowRuns:
    return KubeflowRuns()


@pytest.fixture
def kubeflow_server(kubeflow: KubeflowRuns, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(kubeflow.routes()) as server:
        monkeypatch.setenv("KFP_ENDPOINT", server.url)
        monkeypatch.setenv("KFP_EXISTING_TOKEN", "our-token")
        monkeypatch.setenv("KFP_NAMESPACE", "team-rl")
        yield server


@pytest.fixture
def argo() -> ArgoWorkflows:
    return ArgoWorkflows()


@pytest.fixture
def argo_server(argo: ArgoWorkflows, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(argo.routes()) as server:
        monkeypatch.setenv("ARGO_SERVER", server.url.removeprefix("http://"))
        monkeypatch.setenv("ARGO_SECURE", "false")
        monkeypatch.setenv("ARGO_TOKEN", "Bearer our-token")
        monkeypatch.setenv("ARGO_NAMESPACE", "rl")
        yield server


def test_kubeflow_gets_the_pipeline_and_its_arguments(
    kubeflow: KubeflowRuns,
    kubeflow_server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("{image: mirror/steps:9, service_account: runner}")
    arguments = ["--param", "iterations=3", "--build", "segments=2", "--profile", str(profile)]
    assert main([*SUBMIT, *arguments, "--experiment", "maths"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "run-1"
    assert "tuft-pipelines status run-1 --engine kfp" in printed.err
    run = kubeflow.runs["run-1"]
    assert run["runtime_config"]["parameters"] == {"name": "gsm8k-1", "iterations": 3}
    assert run["service_account"] == "runner"
    assert run["experiment_id"] == "experiment-1"
    spec = run["pipeline_spec"]["pipeline_spec"]
    tasks = {task["taskInfo"]["name"] for task in spec["root"]["dag"]["tasks"].values()}
    assert {"preflight", "train 1", "train 2", "report"} <= tasks
    assert "train 3" not in tasks
    assert "mirror/steps:9" in str(spec["deploymentSpec"])
    assert "tuft-client" in str(run["pipeline_spec"]["platform_spec"])
    [experiment] = [
        request
        for request in kubeflow_server.requests
        if (request.method, request.path) == ("POST", "/apis/v2beta1/experiments")
    ]
    assert experiment.body["display_name"] == "maths"
    assert experiment.body["namespace"] == "team-rl"


def test_status_shows_tasks_and_not_what_kubeflow_has_around_them(
    kubeflow_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SUBMIT) == 0
    capsys.readouterr()
    assert main(["status", "run-1", "--engine", "kfp"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run-1  tuft-grpo-minimal  FAILED",
        "  preflight  SUCCEEDED",
        "  start-run  FAILED      main: Error (exit code 78)",
        "  name=gsm8k-1",
    ]


def test_logs_are_those_of_failed_tasks_or_of_one(
    kubeflow_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SUBMIT) == 0
    capsys.readouterr()
    assert main(["logs", "run-1", "--engine", "kfp"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "== start-run (FAILED), pod wf-impl-2",
        "first line of run-1 wf-impl-2",
        "second line",
    ]
    assert main(["logs", "run-1", "--engine", "kfp", "--task", "preflight"]) == 0
    assert "first line of run-1 wf-impl-1" in capsys.readouterr().out
    assert main(["logs", "run-1", "--engine", "kfp", "--task", "rollout"]) == 78
    assert "no task 'rollout'; there are: preflight, start-run" in capsys.readouterr().err


def test_resume_submits_the_same_again(
    kubeflow: KubeflowRuns, kubeflow_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SUBMIT) == 0
    assert main(["resume", "run-1", "--engine", "kfp"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run-2"
    first, second = kubeflow.runs["run-1"], kubeflow.runs["run-2"]
    for part in ("pipeline_spec", "runtime_config", "experiment_id", "display_name"):
        assert second[part] == first[part], part
    kubeflow.state = "RUNNING"
    assert main(["resume", "run-1", "--engine", "kfp"]) == 78
    assert "run-1 is RUNNING: there is nothing to resume yet" in capsys.readouterr().err
    assert "run-3" not in kubeflow.runs


def test_kubeflow_says_what_is_wrong(
    kubeflow_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "run-9", "--engine", "kfp"]) == 78
    assert "has no run run-9: run run-9 not found" in capsys.readouterr().err
    monkeypatch.setenv("KFP_EXISTING_TOKEN", "old")
    assert main(["status", "run-1", "--engine", "kfp"]) == 78
    error = capsys.readouterr().err
    assert "refused (401 the token is not valid): set KFP_EXISTING_TOKEN" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "grpo_minimal"], "parameter name: Field required. Of the training run"),
        ([*SUBMIT[:2], "--param", "name=a b"], "parameter name: String should match"),
        ([*SUBMIT[:2], "--param", "name=a", "--param", "groups=4"], "no parameter groups"),
        ([*SUBMIT[:2], "--param", "name=a", "--build", "segments=11"], "segments: Input should"),
        (["submit", "grpo_maximal"], "no pipeline 'grpo_maximal'; there are: "),
    ],
)
def test_wrong_arguments_never_reach_kubeflow(
    arguments: list[str],
    message: str,
    kubeflow: KubeflowRuns,
    kubeflow_server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments, "--engine", "kfp"]) == 78
    assert message in capsys.readouterr().err
    assert kubeflow.runs == {}


@pytest.mark.parametrize(("engine", "variable"), [("kfp", "KFP_ENDPOINT"), ("argo", "ARGO_SERVER")])
def test_a_missing_variable_is_named(
    engine: str, variable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "run-1", "--engine", engine]) == 78
    assert f"{variable} is not set: it says where" in capsys.readouterr().err


def test_an_argo_server_that_is_away_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARGO_SERVER", "127.0.0.1:1")
    monkeypatch.setenv("ARGO_SECURE", "false")
    assert main(["status", "run-1", "--engine", "argo"]) == 1
    assert "http://127.0.0.1:1 can't be reached" in capsys.readouterr().err


def test_argo_gets_a_workflow_of_the_template(
    argo: ArgoWorkflows, argo_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    submit = ["submit", "grpo", "--engine", "argo", "--param", "name=gsm8k-1"]
    assert main([*submit, "--param", "iterations=40"]) == 0
    [(name, workflow)] = argo.workflows.items()
    assert capsys.readouterr().out.splitlines() == [name]
    assert workflow["spec"] == {
        "workflowTemplateRef": {"name": "tuft-grpo"},
        "arguments": {
            "parameters": [
                {"name": "name", "value": "gsm8k-1"},
                {"name": "iterations", "value": "40"},
            ]
        },
    }
    assert workflow["metadata"]["namespace"] == "rl"
    assert main(["status", name, "--engine", "argo"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{name}  tuft-grpo  Failed",
        "  child failed",
        "  preflight  Succeeded",
        "  start      Failed      Error (exit code 78)",
        "  name=gsm8k-1",
    ]
    assert main(["logs", name, "--engine", "argo"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"== start (Failed), pod {name}-22", "a wrong key"]
    assert main(["resume", name, "--engine", "argo"]) == 0
    again = argo.workflows[capsys.readouterr().out.splitlines()[0]]
    assert again["spec"] == workflow["spec"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "parameter name is missing. Name of the training run"),
        (["name=a", "speed=9"], "no parameter speed; there are: "),
    ],
)
def test_wrong_arguments_never_reach_argo(
    settings: list[str],
    message: str,
    argo: ArgoWorkflows,
    argo_server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [text for setting in settings for text in ("--param", setting)]
    assert main(["submit", "grpo", "--engine", "argo", *given]) == 78
    assert message in capsys.readouterr().err
    assert argo.workflows == {}


def test_argo_says_what_is_wrong(
    argo_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "nope", "--engine", "argo"]) == 78
    assert "has no workflow nope in rl" in capsys.readouterr().err
    monkeypatch.setenv("ARGO_TOKEN", "Bearer old")
    assert main(["status", "nope", "--engine", "argo"]) == 78
    assert "refused (401): set ARGO_TOKEN" in capsys.readouterr().err
