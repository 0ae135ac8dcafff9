"""CPU time of a small training step through the whole service, beyond the model's own compute.

A step is one row of 16 tokens: forward_backward and optim_step, sent together by the real SDK.
The model's own compute is the same step in plain PyTorch. What the client uses is not counted.
One thread, so that CPU time is work and not waiting in OpenMP's spin loops.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from tests.bench.bare import BareModel, random_rows
from tests.bench.measure import Turn, here, in_turn, report
from tests.bench.stage import Model, datums, models, stage, training_step

REACH_MS = 6.0


def measure(model: Model, rounds: int, steps: int) -> None:
    """Print where the CPU time of a step goes; `steps` a round."""
    rows = random_rows([16], model.vocab)
    bare = BareModel(model.folder)
    with stage(model, trainer={"threads": 1}) as on:
        client, data = on.training_clients()[0], datums(rows)

        turns = {
            "service": Turn(training_step(client, data), on.clock),
            "bare": here(lambda: bare.training_step(rows)),
        }
        costs = in_turn(turns, rounds, times=steps)
    service, plain = costs["service"], costs["bare"]
    print(f"{model.name}, a step of 1x16 tokens, {rounds} rounds of {steps}, CPU ms a step")
    print(f"  plain PyTorch {1000 * plain.cpu:8.2f}")
    for process, seconds in service.by_process.items():
        print(f"  {process:<13} {1000 * seconds:8.2f}")
    wall = f"wall {1000 * service.wall:.1f} ms, plain {1000 * plain.wall:.1f} ms"
    print(f"  service       {1000 * service.cpu:8.2f}   ({wall})")
    beyond = 1000 * (service.cpu - plain.cpu)
    report(
        f"small step beyond the model's own compute, CPU ms, {model.name}", "<=", REACH_MS, beyond
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=["tiny", "SmolLM2"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), options.models):
            measure(model, options.rounds, steps=50 if model.name == "tiny" else 5)


if __name__ == "__main__":
    main()
