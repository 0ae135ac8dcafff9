"""Compiled pipelines, executed as a cluster would: every step as `tuft-step … --executor-input`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service
from tests.pipelines.launcher import Executed, execute
from tuft_components.batches import read_batch
from tuft_components.profile import Profile
from tuft_components.steps import STEP_NAMES
from tuft_pipelines.catalogue import ready_pipeline
from tuft_pipelines.compiling import compile_pipeline
from tuft_pipelines.faces import container_faces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REWARD = "tests.e2e.rewards:even_first_token"
SMALL = {"groups": 2, "group_size": 4, "max_tokens": 2, "eval_episodes": 2, "reward": REWARD}


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch, service_env: dict[str, str]) -> None:
    """`tuft-step` is found, and finds the rewards of these tests."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def run(
    name: str, folder: Path, choices: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Executed]:
    pipeline = ready_pipeline(name)
    file = folder / f"{name}.yaml"
    built = pipeline.build(container_faces(Profile()), pipeline.choose(choices))
    compile_pipeline(built, file)
    texts = {"work_root": folder / "work", "name": name.replace("_", "-"), **settings}
    arguments = pipeline.parameters.parse([f"{key}={value}" for key, value in texts.items()])
    return execute(file, arguments, folder / name)


def test_every_step_runs_as_a_container_would(
    on_path: None, pipeline_service: Service, tmp_path: Path
) -> None:
    split = run("grpo_split", tmp_path, {"iterations": 1, "shards": 2}, SMALL)
    run_id, policy = (split[task].parameters[name] for task, name in (
        ("start run", "run_id"), ("update 1", "policy")
    ))  # fmt: skip
    assert policy == f"tinker://{run_id}/sampler_weights/policy-000001"
    batch = split["feedback 1"].artifacts["batch"]
    assert batch["metadata"]["schema"] == "tuft.batch/1"
    assert len({row.key[:3] for row in read_batch(batch["uri"])}) == 8
    assert "<html" in Path(split["report"].artifacts["html"]["uri"]).read_text()

    examples = tmp_path / "examples.jsonl"
    examples.write_text(json.dumps({"prompt": "Say cat.", "completion": " cat"}) + "\n")
    tuned = run(
        "sft_then_rl",
        tmp_path,
        {"segments": 1},
        {**SMALL, "dataset_uri": examples, "iterations": 1},
    )
    assert tuned["train 1"].parameters["iterations_done"] == 1
    assert tuned["train 1"].artifacts["history"]["metadata"]["schema"] == "tuft.history/1"

    uris = [split[f"rollout 1, {shard} of 2"].parameters["uri"] for shard in (1, 2)]
    rescored = run(
        "rescore_and_update_minimal",
        tmp_path,
        {},
        {
            "run_id": run_id,
            "iteration": 1,
            "trajectories_uris": json.dumps(uris),
            "reward": REWARD,
        },
    )
    assert rescored["update"].parameters["policy"].endswith("policy-000002")

    gate = {"policy": policy, "target_uri": tmp_path / "models", "model_name": "words"}
    promoted = run("evaluate_and_promote_minimal", tmp_path, {}, {**gate, "reward": REWARD})
    assert promoted["promote"].parameters["promoted"] is True
    assert list((tmp_path / "models").rglob("adapter_model.safetensors"))

    commands = [
        task.command for done in (split, tuned, rescored, promoted) for task in done.values()
    ]
    assert {command[1] for command in commands} == set(STEP_NAMES)
    assert {(command[0], *command[2:-1]) for command in commands} == {
        ("tuft-step", "--executor-input")
    }
