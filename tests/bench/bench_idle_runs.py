"""Memory of the trainer per idle training run: many runs on one base, eight active at a time."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil
from tinker import types

from tests.bench.bare import RANK, random_rows
from tests.bench.measure import report
from tests.bench.stage import TIMEOUT_S, Model, Stage, datums, models, stage

REACH = 1.0
ACTIVE = 8
_WARM = 4 * ACTIVE


def train(on: Stage, runs: int) -> None:
    """Create so many runs, and make a step of each; eight at a time."""
    (client,) = on.clients
    data = datums(random_rows([16], on.model.vocab))
    for begin in range(0, runs, ACTIVE):
        made = [
            client.create_lora_training_client(
                base_model=on.model.name, rank=RANK, train_unembed=False
            )
            for _ in range(begin, min(begin + ACTIVE, runs))
        ]
        clients = [created.result(TIMEOUT_S) for created in made]
        computed = [training.forward_backward(data, "cross_entropy") for training in clients]
        steps = [training.optim_step(types.AdamParams(learning_rate=1e-4)) for training in clients]
        for forward_backward, step in zip(computed, steps, strict=True):
            forward_backward.result(TIMEOUT_S)
            step.result(TIMEOUT_S)


def measure(model: Model, runs: int) -> None:
    """Runs that come after the first few find everything warm: they cost what runs cost."""
    with stage(model, trainer={"max_resident_adapters": ACTIVE}) as on:
        (trainer,) = [process for name, process in on.processes if name == "trainer"]
        train(on, _WARM)
        begun, before = time.perf_counter(), megabytes(trainer)
        train(on, runs - _WARM)
        growth = (megabytes(trainer) - before) / (runs - _WARM)
        seconds = (time.perf_counter() - begun) / (runs - _WARM)
        print(f"{model.name}: {before:.0f} MB with {_WARM} runs, {seconds:.2f} s for each further")
    report(f"{runs} runs, {ACTIVE} active, {model.name}: MB per idle run", "<=", REACH, growth)


def megabytes(process: psutil.Process) -> float:
    """Memory of a process that is its own: the base model's file is mapped."""
    return process.memory_full_info().uss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--model", default="SmolLM2", choices=["tiny", "SmolLM2"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), [arguments.model]):
            measure(model, arguments.runs)


if __name__ == "__main__":
    main()
