"""One run of a curve: the pipeline `grpo`, or `sft_then_rl`, on a service, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.learning.curves import Curve
from tests.learning.random_play import write_examples
from tuft_components.report.records import history_of
from tuft_components.work import Work
from tuft_pipelines.local_service import LocalService

ARMS = ("learning", "control")


@dataclass(frozen=True)
class Run:
    """`arm` "control" is the same with learning rate 0; `dtype` is the base model's.

    Of a control one segment says it all: its policy can't change.
    """

    name: str
    curve: Curve
    seed: int
    arm: str
    dtype: str

    @property
    def segments(self) -> int:
        return 1 if self.arm == "control" else self.curve.segments

    @property
    def title(self) -> str:
        return f"{self.name}-{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """`held_out` are (updates, mean reward) of each evaluation, `training` of each iteration."""

    seed: int
    arm: str
    held_out: list[tuple[int, float]]
    training: list[tuple[int, float]]
    seconds: float
    dtype: str


def finished(folder: Path, run: Run) -> Result | None:
    """What a run left behind that is done."""
    file = _file(folder, run)
    return Result(**json.loads(file.read_text())) if file.exists() else None


def execute(folder: Path, run: Run, service: LocalService, eval_episodes: int) -> Result:
    """Run it, or go on where it was stopped.

    Raises:
        subprocess.CalledProcessError: the pipeline failed; its output is on stderr.
    """
    curve, work_root = run.curve, folder / "work"
    params = {
        "base_model": "",
        **curve.params,
        "name": run.title,
        "work_root": str(work_root.absolute()),
        "env": curve.env,
        "env_args": json.dumps(dict(curve.env_args)),
        "iterations": curve.iterations,
        "seed": run.seed,
        "eval_episodes": eval_episodes,
    }
    if run.arm == "control":
        params["learning_rate"] = 0.0
    pipeline = "grpo"
    if curve.warm_start:
        pipeline = "sft_then_rl"
        params |= _warm_start(run, folder / "examples" / f"{run.title}.jsonl")
    command = [sys.executable, "-m", "tuft_pipelines.cli", "run", pipeline]
    command += ["--output", str(folder / "output" / run.title)]
    command += ["--build", f"segments={run.segments}"]
    for name, value in params.items():
        command += ["--param", f"{name}={value}"]
    subprocess.run(command, env={**os.environ, **service.env}, check=True)
    result = _result(run, Work(f"{params['work_root']}/{run.title}"))
    file = _file(folder, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(result)))
    return result


def _warm_start(run: Run, examples: Path) -> dict[str, Any]:
    write_examples(run.curve, run.seed, examples)
    return {
        "dataset_uri": str(examples.absolute()),
        "sft_learning_rate": 1e-3,
        "sft_batch_size": 8,
        # An action ends with its line.
        "sft_append_eos": False,
    }


def _result(run: Run, work: Work) -> Result:
    records = work.records()
    history = history_of(run.title, records)
    return Result(
        seed=run.seed,
        arm=run.arm,
        held_out=[(one.iteration, one.reward) for one in history.evaluations],
        training=[(one.number, one.reward) for one in history.iterations],
        seconds=round(sum(one.seconds for one in records if one.step == "train_loop"), 1),
        dtype=run.dtype,
    )


def _file(folder: Path, run: Run) -> Path:
    return folder / "results" / f"{run.title}.json"
