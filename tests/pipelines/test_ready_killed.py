"""A local pipeline run in which every step is killed once, at a random moment, and retried."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from tests.e2e.service import Service
from tuft_pipelines.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = {
    "groups": 3,
    "group_size": 4,
    "max_tokens": 3,
    "eval_episodes": 2,
    "learning_rate": 1e-2,
    "seed": 1,
    "reward": "tests.e2e.rewards:even_first_token",
    # One group at a time: a group that is played again has no other neighbours in the sampler's
    # batch than the first time, so that its logprobs are the same to the bit.
    "concurrency": 4,
}
Weights = dict[str, npt.NDArray[Any]]


def run(pipeline: str, folder: Path, build: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run in which each task may be retried twice."""
    arguments = ["run", pipeline, "--output", str(folder), "--retries", "2", "--build", build]
    for name, value in {**SETTINGS, **settings}.items():
        arguments += ["--param", f"{name}={value}"]
    assert main(arguments) == 0
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def weights(service: Service, summary: dict[str, Any]) -> Weights:
    """The tensors of the run's checkpoint: the adapter's and the optimizer's."""
    run_id, _, name = (
        summary["outputs"]["checkpoint"].removeprefix("tinker://").partition("/weights/")
    )
    folder = service.checkpoint_dir / "runs" / run_id / "weights" / name
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        f"{file}: {key}": value
        for file in manifest["files"]
        if file.endswith(".safetensors")
        for key, value in load_file(folder / manifest["folder"] / file).items()
    }


@pytest.mark.parametrize(
    ("pipeline", "build", "more"),
    [
        ("grpo_split", "iterations=2", {}),
        ("sft_then_rl", "segments=1", {"iterations": 2, "sft_learning_rate": 1e-3}),
    ],
)
def test_each_step_killed_once_ends_with_the_same_weights(
    pipeline: str,
    build: str,
    more: dict[str, Any],
    pipeline_service: Service,
    service_env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if pipeline == "sft_then_rl":
        examples = tmp_path / "examples.jsonl"
        rows = [{"prompt": f"Say {word}.", "completion": f" {word}"} for word in ("cat", "dog")]
        examples.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        more = {**more, "dataset_uri": examples, "sft_batch_size": 1}
    kills = tmp_path / "kills"
    kills.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "kills"))
    monkeypatch.setenv("TUFT_KILLS", str(kills))
    undisturbed = run(pipeline, tmp_path / "undisturbed", build, more)

    took = {file.stem: float(file.read_text()) for file in kills.glob("*.cpu")}
    assert len(took) == len(undisturbed["tasks"])
    moments = random.Random(7)
    planned = {task: moments.uniform(0.3, 0.95) * seconds for task, seconds in took.items()}
    (kills / "moments.json").write_text(json.dumps(planned))
    disturbed = run(pipeline, tmp_path / "disturbed", build, more)

    assert {file.stem for file in kills.glob("*.begun")} == set(took)
    # A task may need less than the first time, and so end before its moment.
    killed = {file.stem for file in kills.glob("*.killed")}
    assert len(killed) >= 0.8 * len(took), killed
    expected, found = weights(pipeline_service, undisturbed), weights(pipeline_service, disturbed)
    assert disturbed["outputs"]["run_id"] != undisturbed["outputs"]["run_id"]
    assert found.keys() == expected.keys()
    assert any(np.any(value) for value in expected.values())
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
