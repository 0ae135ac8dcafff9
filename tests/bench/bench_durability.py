"""What journal and snapshots cost of a training step: a service that keeps all beside one that keeps nothing.

Both run the same steps in turn, on the demo model, with a batch about as large as a step of the
demo's. The one has `file_redis` (each write synced to disk) and takes a snapshot in each round,
three times as often as by default; the other one has no disk and takes none.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.bare import random_rows
from tests.bench.measure import Turn, in_turn, report
from tests.bench.stage import datums, models, stage, training_step

REACH_PERCENT = 5.0
ROWS, LENGTH, STEPS = 16, 48, 8
NEVER = 10**12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        [model] = models(Path(folder), ["SmolLM2"])
        data = datums(random_rows([LENGTH] * ROWS, model.vocab))
        every = ROWS * LENGTH * (STEPS - 1)
        settings: dict[str, dict[str, Any]] = {
            "kept": {
                "persistence": {"mode": "file_redis", "file_path": f"{folder}/state"},
                "trainer": {"snapshot_every_tokens": every},
            },
            "not kept": {"trainer": {"snapshot_every_tokens": NEVER}},
        }
        turns = {}
        for name, sections in settings.items():
            on = stack.enter_context(stage(model, **sections))
            turns[name] = Turn(training_step(on.training_clients()[0], data), on.clock)
        costs = in_turn(turns, options.rounds, times=STEPS)
    print(f"a step of {ROWS}x{LENGTH} tokens, {options.rounds} rounds of {STEPS}, ms")
    for name, cost in costs.items():
        used = ", ".join(f"{who} {1000 * cpu:.1f}" for who, cpu in cost.by_process.items())
        print(f"  {name:<9} wall {1000 * cost.wall:8.1f}   CPU {1000 * cost.cpu:8.1f} ({used})")
    kept, plain = costs["kept"], costs["not kept"]
    for what, percent in (
        ("wall", 100 * (kept.wall / plain.wall - 1)),
        ("CPU", 100 * (kept.cpu / plain.cpu - 1)),
    ):
        report(f"journal and snapshots, % of a step's {what}", "<=", REACH_PERCENT, percent)


if __name__ == "__main__":
    main()
