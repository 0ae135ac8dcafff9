"""Learning curves: `python -m tests.learning number_guess --seeds 1 2 3`.

Starts a service with the demo model that keeps everything on disk, and runs what is not done yet.
Stopped and started again, it goes on where it was. Data and pictures go to docs/learning/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.learning.curves import CURVES
from tests.learning.pictures import draw, row
from tests.learning.random_play import chance_of
from tests.learning.runs import ARMS, Result, Run, execute, finished
from tests.learning.service import DOCS, lasting_service, say


def main() -> None:
    options = _options()
    runs = [
        Run(name, CURVES[name], seed, arm, options.dtype)
        for name in options.curves
        for seed in options.seeds
        for arm in options.arms
    ]
    missing = [run for run in runs if finished(options.folder, run) is None]
    if missing:
        with lasting_service(options.folder, options.dtype) as service:
            for run in missing:
                say(f"{run.title}: {run.segments} × {run.curve.iterations} iterations")
                execute(options.folder, run, service, options.eval_episodes)
    for name in options.curves:
        _tell(options.folder, name)


def _tell(folder: Path, name: str) -> None:
    """Of all runs of the curve that are done, also those of earlier calls."""
    curve = CURVES[name]
    files = sorted((folder / "results").glob(f"{name}-*.json"))
    results: Sequence[Result] = sorted(
        (Result(**json.loads(file.read_text())) for file in files),
        key=lambda result: (ARMS.index(result.arm), result.seed),
    )
    if not results:
        return
    DOCS.mkdir(parents=True, exist_ok=True)
    chance = chance_of(curve)
    curve_data = {**asdict(curve), "chance": round(chance, 4)}
    data = {"curve": curve_data, "results": [asdict(result) for result in results]}
    (DOCS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    draw(name, curve, chance, results, DOCS / f"{name}.png")
    say(row(name, curve, chance, results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.learning", description=__doc__)
    parser.add_argument("curves", nargs="+", choices=sorted(CURVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--eval-episodes", type=int, default=192)
    parser.add_argument("--folder", type=Path, default=Path("learning-output"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
