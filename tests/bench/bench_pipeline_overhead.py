"""A pipeline through kfp.local beside the same loop as one plain Python program over the Tinker SDK.

Whole programs are measured, from the start of their process to its end: what a user waits for. The
service runs already, and is warm. Seconds "in the loop" leave out how long processes and KFP take
to start. CPU seconds of the client are those of the program and all processes that it starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import median

from tests.bench.loop_programs import FORMS, Told, read
from tests.bench.measure import Cost, Turn, in_turn, report
from tests.bench.stage import Model, Stage, models, stage

REACH = 1.1


class Programs:
    """Starts them against a stage's service, each in a new folder below `folder`."""

    def __init__(self, on: Stage, folder: Path, iterations: int) -> None:
        self._on = on
        self._folder = folder
        self._iterations = iterations
        self._numbers = count()
        self.told: dict[str, list[Told]] = {form: [] for form in FORMS}

    def turn(self, form: str) -> Turn:
        return Turn(lambda: self.told[form].append(self.run(form, self._iterations)), self._clock)

    def run(self, form: str, iterations: int) -> Told:
        folder = self._folder / f"{form}-{next(self._numbers)}"
        command = [sys.executable, "-m", "tests.bench.loop_programs", form]
        command += ["--model", self._on.model.name]
        command += ["--iterations", str(iterations), "--folder", str(folder)]
        env = {"TINKER_BASE_URL": self._on.service.url, "TINKER_API_KEY": "tml-bench-0000"}
        subprocess.run(command, env={**os.environ, **env}, check=True, stderr=sys.stderr)
        return read(folder)

    def _clock(self) -> dict[str, float]:
        times = os.times()
        return {**self._on.clock(), "client": times.children_user + times.children_system}


def measure(model: Model, iterations: int, rounds: int, forms: Sequence[str]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="tuft-bench-") as folder,
        stage(model, dtype="auto") as on,
    ):
        programs = Programs(on, Path(folder), iterations)
        for form in forms:  # the service's caches, and those of imports and the tokenizer
            programs.run(form, 1)
        costs = in_turn({form: programs.turn(form) for form in forms}, rounds, warm=False)
    firsts = [told[-1].rewards[0] for told in programs.told.values() if told]
    # Rounding may cost a token among many; other tasks or random numbers would cost far more.
    assert max(firsts) - min(firsts) < 0.05, f"the programs do not do the same work: {firsts}"
    print(f"{model.name}, {iterations} iterations of the demo's loop, {rounds} rounds, seconds")
    _show(costs, programs.told, iterations)
    for form in ("plain", "without_torch"):
        if form in costs and "train_loop" in costs:
            report(
                f"train_loop by kfp.local / {form} program, {iterations} iterations, {model.name}",
                "<=",
                REACH,
                costs["train_loop"].wall / costs[form].wall,
            )


def _show(costs: Mapping[str, Cost], told: Mapping[str, Sequence[Told]], iterations: int) -> None:
    print(
        f"  {'':<14}{'whole':>8}{'/ plain':>9}{'loop':>8}{'/ plain':>9}{'client CPU':>12}  rewards"
    )
    plain = min(costs, key=lambda form: form != "plain")
    loops = {form: median(each.loop_seconds for each in told[form]) for form in costs}
    for form, cost in costs.items():
        last = told[form][-1].rewards
        print(
            f"  {form:<14}{cost.wall:8.1f}{cost.wall / costs[plain].wall:9.2f}"
            f"{loops[form]:8.1f}{loops[form] / loops[plain]:9.2f}"
            f"{cost.by_process['client']:12.1f}  {last[0]:.3f} -> {last[-1]:.3f}"
        )
        beyond = (cost.wall - costs[plain].wall) / iterations
        print(f"  {'':<14}{beyond:8.2f} s an iteration beyond {plain}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=["SmolLM2"])
    parser.add_argument("--forms", nargs="+", choices=sorted(FORMS), default=list(FORMS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), options.models):
            measure(model, options.iterations, options.rounds, options.forms)


if __name__ == "__main__":
    main()
