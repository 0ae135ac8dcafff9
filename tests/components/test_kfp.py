"""The KFP faces: they compile, fit the steps' contracts, and run."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, local

from tests.components.samples import TRANSITION, transition
from tests.components.test_cli import tuft_step
from tuft_components.batches import read_batch
from tuft_components.kfp_faces import local_path, steps_image
from tuft_components.steps import STEP_NAMES, load_step
from tuft_components.trajectories import write_trajectories

FACES = [(name, face) for name in STEP_NAMES for face in (name, f"{name}_lightweight")]


def _compiled(name: str, face: str, folder: Path) -> dict[str, Any]:
    component = getattr(import_module(f"tuft_components.{name}.component"), face)
    path = folder / f"{face}.yaml"
    compiler.Compiler().compile(component, str(path))
    compiled: dict[str, Any] = yaml.safe_load(path.read_text())
    return compiled


def _only(entries: dict[str, Any]) -> Any:
    (entry,) = entries.values()
    return entry


@pytest.mark.parametrize(("name", "face"), FACES)
def test_a_face_has_the_contract_of_its_step(name: str, face: str, tmp_path: Path) -> None:
    step = load_step(name)
    component = _only(_compiled(name, face, tmp_path)["components"])
    inputs = component.get("inputDefinitions", {})
    outputs = component.get("outputDefinitions", {})
    parameters = inputs.get("parameters", {})
    assert set(parameters) == set(step.params.model_fields)
    given = {}
    for parameter, definition in parameters.items():
        field = step.params.model_fields[parameter]
        assert definition.get("isOptional", False) != field.is_required(), parameter
        number = definition["parameterType"].startswith("NUMBER")
        given[parameter] = definition.get("defaultValue", 1 if number else "x")
    defaults = step.params.model_validate(given)
    for parameter, field in step.params.model_fields.items():
        if not field.is_required():
            assert getattr(defaults, parameter) == field.get_default(), parameter
    assert set(inputs.get("artifacts", {})) == set(step.inputs.model_fields)
    kinds = step.output_kinds()
    values = {output for output, kind in kinds.items() if kind == "value"}
    assert set(outputs.get("parameters", {})) == values
    artifacts = outputs.get("artifacts", {})
    assert set(artifacts) == set(kinds) - values
    for output, definition in artifacts.items():
        kind = step.output_type(output).__name__ if kinds[output] == "artifact" else "Metrics"
        title = {"Html": "system.HTML"}.get(kind, f"system.{kind}")
        assert definition["artifactType"]["schemaTitle"] == title


@pytest.mark.parametrize("name", STEP_NAMES)
def test_a_container_gets_the_executor_input_and_nothing_else(name: str, tmp_path: Path) -> None:
    executor = _only(_compiled(name, name, tmp_path)["deploymentSpec"]["executors"])
    assert executor["container"] == {
        "image": steps_image(),
        "command": ["tuft-step", name],
        "args": ["--executor-input", "{{$}}"],
    }


def test_lightweight_twins_install_nothing(tmp_path: Path) -> None:
    compiled = _compiled("update", "update_lightweight", tmp_path)
    command = _only(compiled["deploymentSpec"]["executors"])["container"]["command"]
    assert "pip install" not in " ".join(command)


def test_the_image_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUFT_STEPS_IMAGE", "mirror/steps@sha256:abc")
    assert steps_image() == "mirror/steps@sha256:abc"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://b/k", "/s3/b/k"),
        ("minio://b/k", "/minio/b/k"),
        ("gs://b/k", "/gcs/b/k"),
        ("/tmp/x", "/tmp/x"),
    ],
)
def test_artifacts_are_where_the_launcher_puts_them(uri: str, path: str) -> None:
    assert local_path(uri) == path


@pytest.fixture
def trajectories(tmp_path: Path) -> Path:
    path = tmp_path / "trajectories"
    write_trajectories(str(path), [TRANSITION, transition(sample=1, completion_text="x")], {})
    return path


def test_a_container_reads_executor_input_and_writes_executor_output(
    tmp_path: Path, trajectories: Path
) -> None:
    request = {
        "inputs": {
            "parameterValues": {
                "reward": "exact_match",
                "advantage": "grpo_no_std",
                "pipelinechannel--rollout-uri": "put into another parameter by KFP",
            },
            "artifacts": {"trajectories": {"artifacts": [{"uri": str(trajectories)}]}},
        },
        "outputs": {
            "parameters": {"mean_reward": {"outputFile": str(tmp_path / "out" / "mean_reward")}},
            "artifacts": {
                "batch": {"artifacts": [{"name": "n", "uri": str(tmp_path / "out" / "batch")}]},
                "metrics": {"artifacts": [{"uri": str(tmp_path / "out" / "metrics")}]},
            },
            "outputFile": str(tmp_path / "report" / "executor_output.json"),
        },
    }
    done = tuft_step("feedback", "--executor-input", json.dumps(request))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tmp_path / "report" / "executor_output.json").read_text())
    assert report["parameterValues"] == {"mean_reward": 0.5}
    (batch,) = report["artifacts"]["batch"]["artifacts"]
    assert batch["name"] == "n"
    assert batch["uri"] == str(tmp_path / "out" / "batch")
    assert batch["metadata"]["schema"] == "tuft.batch/1"
    (metrics,) = report["artifacts"]["metrics"]["artifacts"]
    assert metrics["metadata"]["episodes"] == 2.0
    assert (tmp_path / "out" / "mean_reward").read_text() == "0.5"
    assert len(read_batch(str(tmp_path / "out" / "batch"))) == 2


@pytest.fixture
def run_locally(tmp_path: Path) -> Any:
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(tmp_path / "root"),
        raise_on_error=True,
    )
    from tests.components.judge_pipeline import judge

    return judge


def test_a_lightweight_twin_runs_in_kfp_local(
    run_locally: Any, trajectories: Path, tmp_path: Path
) -> None:
    task = run_locally(uri=str(trajectories), reward="exact_match")
    assert task.output == 0.5
    (batch,) = (tmp_path / "root").rglob("batch")
    assert len(read_batch(str(batch))) == 2


def test_a_failing_twin_says_why(
    run_locally: Any, trajectories: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError):
        run_locally(uri=str(trajectories), reward="bleu")
    printed = "".join(capfd.readouterr())
    assert "tuft-step feedback (exit code 78): no reward 'bleu'" in printed
    assert "Traceback" not in printed.split("tuft-step feedback", 1)[1]
