"""Tokens per second of one tenant's forward_backward + optim_step (8x128 tokens) through the
whole service, beside the same step in plain PyTorch, turn about.

The service's number includes everything a client sees: HTTP, protobuf, journal, results.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from tests.bench.bare import BareModel, random_rows
from tests.bench.measure import Turn, here, in_turn, report
from tests.bench.stage import datums, models, stage, training_step

ROWS, LENGTH = 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="SmolLM2", choices=["tiny", "SmolLM2"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        [model] = models(Path(folder), [options.model])
        rows = random_rows([LENGTH] * ROWS, model.vocab)
        bare = BareModel(model.folder, options.dtype)
        with stage(model, dtype=options.dtype, trainer={"threads": threads}) as on:
            client, data = on.training_clients()[0], datums(rows)

            turns = {
                "service": Turn(training_step(client, data), on.clock),
                "bare": here(lambda: bare.training_step(rows)),
            }
            costs = in_turn(turns, options.rounds)
    tokens = ROWS * LENGTH
    print(f"{model.name}, {options.dtype}, {threads} threads, a step of {ROWS}x{LENGTH} tokens")
    for name, cost in costs.items():
        print(
            f"  {name:<8} {tokens / cost.wall:8.1f} tokens/s, {tokens / cost.cpu:8.1f} tokens/CPU s"
        )
    service, plain = costs["service"], costs["bare"]
    what = f"8x128, one tenant, service / plain PyTorch, {model.name}"
    report(f"{what}, wall", ">=", 0.9, plain.wall / service.wall)
    report(f"{what}, CPU", ">=", 0.9, plain.cpu / service.cpu)


if __name__ == "__main__":
    main()
