"""A train_loop that is killed at random moments and run again elsewhere ends with the same weights."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.e2e.service import Service
from tests.helpers.step_process import Outcome, StepProcess
from tuft_components.start_run.step import STEP as START_RUN
from tuft_components.train_loop.history import Iteration, read_history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "tml-local-dev-key"
ITERATIONS = 3
SETTINGS = {
    "iterations": ITERATIONS,
    "groups": 3,
    "group_size": 4,
    "max_tokens": 3,
    "reward": "tests.e2e.rewards:even_first_token",
    # One group at a time: a group that is played again has no other neighbours in the sampler's
    # batch than the first time, so that its logprobs are the same to the bit.
    "concurrency": 4,
    "learning_rate": 1e-2,
    "checkpoint_name": "final",
}


@dataclass
class Loops:
    """Starts train_loops in processes of their own; all runs begin with the same weights."""

    service: Service
    folder: Path

    def new_run(self) -> str:
        return START_RUN.execute({"lora_rank": 4, "seed": 1}, {}, {}).run_id

    def start(self, run_id: str, max_staleness: int) -> StepProcess:
        params = {
            **SETTINGS,
            "run_id": run_id,
            "policy_before": f"tinker://{run_id}/sampler_weights/policy-000000",
            "max_staleness": max_staleness,
            "work_uri": self.folder / run_id,
        }
        texts = [text for name, value in params.items() for text in ("--param", f"{name}={value}")]
        output = ["--output", f"history={self.folder / run_id / 'history.parquet'}"]
        env = {"TINKER_BASE_URL": self.service.url, "TINKER_API_KEY": KEY}
        return StepProcess(self.folder / "processes", ["train_loop", *texts, *output], env)

    def result(self, run_id: str, outcome: Outcome) -> tuple[list[Iteration], dict[str, Any]]:
        """Its history, and the tensors of its checkpoint: the adapter's and the optimizer's."""
        assert outcome.code == 0, outcome.error
        name = f"final-{ITERATIONS:06d}"
        assert outcome.outputs["checkpoint"] == f"tinker://{run_id}/weights/{name}"
        folder = self.service.checkpoint_dir / "runs" / run_id / "weights" / name
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["step"] == ITERATIONS
        tensors = {
            f"{file}: {key}": value
            for file in manifest["files"]
            if file.endswith(".safetensors")
            for key, value in load_file(folder / manifest["folder"] / file).items()
        }
        return read_history(outcome.outputs["history"]["uri"]), tensors


@pytest.fixture
def loops(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loops:
    monkeypatch.setenv("TINKER_BASE_URL", service.url)
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    return Loops(service, tmp_path)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_loop_that_is_killed_twice_ends_with_the_same_weights(
    max_staleness: int, loops: Loops
) -> None:
    run_id, begun = loops.new_run(), time.monotonic()
    expected, weights = loops.result(run_id, loops.start(run_id, max_staleness).wait(300))
    took = time.monotonic() - begun
    moments, deaths, resumed = random.Random(max_staleness), 0, 0
    for _ in range(3):
        run_id, left = loops.new_run(), took
        for _ in range(2):
            process, moment = loops.start(run_id, max_staleness), moments.uniform(0, left)
            process.kill_after(moment)
            deaths += process.wait().code != 0
            left = max(left - moment, took / 4)
        rows, tensors = loops.result(run_id, loops.start(run_id, max_staleness).wait(300))
        resumed += sum(row.resumed for row in rows)
        assert [row.mean_reward for row in rows] == [row.mean_reward for row in expected]
        assert [row.staleness for row in rows] == [row.staleness for row in expected]
        assert tensors.keys() == weights.keys()
        for name, value in tensors.items():
            np.testing.assert_array_equal(value, weights[name], err_msg=name)
    assert deaths
    assert resumed
