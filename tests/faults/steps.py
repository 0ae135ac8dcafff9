"""Steps against a real service, killed and run again, and what must have come of them."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tinker
from safetensors.numpy import load_file

import tuft_sdk
from tests.components.samples import row
from tests.e2e.service import Service
from tests.helpers.step_process import Fault, Outcome, StepProcess
from tuft_components.batches import write_batch
from tuft_components.errors import ExitCode

KEY = "tml-local-dev-key"
KILLED = -9
LOOK = ["GET readyz", "GET tuft/steps"]
"""All that the retry of a finished update asks."""
_OPTIONAL = frozenset({"POST telemetry"})
"""Sent by the Tinker SDK when it has time."""

Weights = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Update:
    """What an update made: its outputs (of a run called RUN), and its checkpoint's tensors."""

    outputs: Any
    weights: Weights

    def assert_equals(self, other: Update) -> None:
        assert self.outputs == other.outputs
        assert self.weights.keys() == other.weights.keys()
        for name, value in self.weights.items():
            np.testing.assert_array_equal(value, other.weights[name], err_msg=name)


@dataclass
class Steps:
    """Starts steps; `folder` is theirs. Runs are made by `client`, all with the same weights."""

    service: Service
    client: tinker.ServiceClient
    tuft: tuft_sdk.TuftClient
    folder: Path
    batches: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            rows = [
                row(group_id=g, sample=n, prompt_tokens=[5 + number, 6, 7 + g], advantages=[a, a])
                for g in range(2)
                for n, a in enumerate((1.0, -0.5))
            ]
            self.batches.append(self.folder / f"batch-{number}.parquet")
            write_batch(str(self.batches[-1]), rows, {})

    def new_run(self) -> str:
        run = self.client.create_lora_training_client("tiny", rank=4, seed=1).result(60)
        return str(run.model_id)

    def run_count(self) -> int:
        """How many training runs the tenant has."""
        answer = self.tuft.extension.request("GET", "training_runs", params={"limit": 1})
        return int(answer.json()["cursor"]["total_count"])

    def update(self, run_id: str, iteration: int = 0, fault: Fault | None = None) -> StepProcess:
        params = {
            "run_id": run_id,
            "iteration": iteration,
            "checkpoint_name": f"after-{iteration}",
            "learning_rate": 1e-2,
        }
        batch = self.batches[iteration % len(self.batches)]
        return self._start("update", params, ["--input", f"batch={batch}"], fault)

    def start_run(self, step_key: str, fault: Fault | None = None) -> StepProcess:
        params = {"step_key": step_key, "lora_rank": 4, "seed": 1}
        return self._start("start_run", params, [], fault)

    def result(self, run_id: str, outcome: Outcome, iteration: int = 0) -> Update:
        """Of an update that succeeded."""
        assert outcome.code == ExitCode.OK, (outcome.error, outcome.requests)
        folder = self.service.checkpoint_dir / "runs" / run_id / "weights" / f"after-{iteration}"
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["step"] == iteration + 1
        assert manifest["step_key"] == f"update/{iteration}"
        weights: Weights = {}
        for name in manifest["files"]:
            if name.endswith(".safetensors"):
                tensors = load_file(folder / manifest["folder"] / name)
                weights |= {f"{name}: {key}": value for key, value in tensors.items()}
        outputs = json.loads(json.dumps(outcome.outputs).replace(run_id, "RUN"))
        return Update(outputs, weights)

    def undisturbed(self) -> tuple[Update, list[str]]:
        """An update that nothing happens to, and its requests."""
        run_id = self.new_run()
        outcome = self.update(run_id).wait()
        return self.result(run_id, outcome), outcome.requests

    def check_finished(self, run_id: str, expected: Update, iteration: int = 0) -> None:
        """Once more, the update gives the same result, and leaves the run alone."""
        outcome = self.update(run_id, iteration).wait()
        self.result(run_id, outcome, iteration).assert_equals(expected)
        assert outcome.requests == LOOK

    def update_with(self, fault: Fault, expected: Update) -> None:
        """An update that `fault` kills, and its retry."""
        run_id = self.new_run()
        outcome = self.update(run_id, fault=fault).wait()
        if outcome.code != KILLED:
            assert fault.request in _OPTIONAL, (fault, outcome)
        self.result(run_id, self.update(run_id).wait()).assert_equals(expected)
        self.check_finished(run_id, expected)

    def pid_of(self, what: str) -> int:
        """The process of the service that runs this module or program."""
        for child in psutil.Process(self.service.process.pid).children(recursive=True):
            if child.name() == what or what in child.cmdline():
                return child.pid
        raise LookupError(f"no process runs {what}")

    def _start(
        self, step: str, params: dict[str, object], inputs: list[str], fault: Fault | None
    ) -> StepProcess:
        texts = [text for name, value in params.items() for text in ("--param", f"{name}={value}")]
        env = {"TINKER_BASE_URL": self.service.url, "TINKER_API_KEY": KEY}
        return StepProcess(self.folder, [step, *texts, *inputs], env, fault)


def faults_of(requests: list[str], action: Any = "kill", victim: int = 0) -> list[Fault]:
    """One before and one after each of the requests."""
    faults: list[Fault] = []
    for index, request in enumerate(requests):
        nth = requests[: index + 1].count(request)
        faults += [Fault(request, side, nth, action, victim) for side in ("before", "after")]
    return faults


def new_key() -> str:
    return f"job-{uuid.uuid4().hex[:8]}"
