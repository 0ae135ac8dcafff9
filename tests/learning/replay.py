"""Error replay on and off, same budget: `python -m tests.learning.replay --seeds 1 2 3`.

Trains the demo model by train_loop on `hard_tail`, and asks after every ten iterations how much of
the tail is solved. Starts a service that keeps everything on disk; stopped and started again, it
goes on where it was. The data go to docs/learning/replay.json.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from tests.learning.service import DOCS, lasting_service, say
from tuft_components.envs.hard_tail import TAIL
from tuft_components.kept_episodes import read_episodes
from tuft_components.steps import load_step
from tuft_components.work import Work

ARMS: dict[str, dict[str, Any]] = {
    "off": {},
    "fresh": {"replay_ratio": 0.25},
    "hint": {"replay_ratio": 0.25, "replay_form": "hint"},
}
ITERATIONS, EVERY, RARE, EPISODES = 100, 20, 0.06, 96
DTYPE = "bfloat16"
TRAINING = {"groups": 8, "group_size": 8, "max_tokens": 2, "learning_rate": 3e-4}


@dataclass(frozen=True)
class Point:
    """After `updates`: the share of the tail's words that are said right at least half of the time,
    and the mean rewards of the tail and of held-out easy tasks."""

    updates: int
    solved: float
    tail: float
    easy: float


@dataclass(frozen=True)
class Result:
    """`tail_groups` are the groups of the training that played a task of the tail."""

    arm: str
    seed: int
    points: list[Point] = field(default_factory=list)
    tail_groups: int = 0
    replayed: int = 0


class Run:
    """One seed of an arm."""

    def __init__(self, folder: Path, arm: str, seed: int) -> None:
        self._arm, self._seed = arm, seed
        self._folder = folder / f"{arm}-{seed}"
        self._work = str((self._folder / "work").absolute())
        self._file = self._folder / "result.json"

    def result(self) -> Result | None:
        """Where it is done."""
        if not self._file.exists():
            return None
        found = json.loads(self._file.read_text())
        return Result(**{**found, "points": [Point(**point) for point in found["points"]]})

    def execute(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        started = self._started()
        points = [self._point(0, started["policy"])]
        for updates in range(EVERY, ITERATIONS + 1, EVERY):
            given = {
                **TRAINING,
                **ARMS[self._arm],
                "run_id": started["run_id"],
                "policy_before": started["policy"],
                "iterations": updates,
                "env": "hard_tail",
                "env_args": {"rare": RARE},
                "seed": self._seed,
                "work_uri": self._work,
            }
            places = {"history": str(self._folder / "history.parquet")}
            trained = load_step("train_loop").execute(given, {}, places)
            points.append(self._point(updates, trained.policy))
            say(f"{self._arm}, seed {self._seed}: {points[-1]}")
        result = Result(self._arm, self._seed, points, *self._tail_groups())
        self._file.write_text(json.dumps(asdict(result)))

    def _started(self) -> dict[str, str]:
        file = self._folder / "run.json"
        if not file.exists():
            run = load_step("start_run").execute({"lora_rank": 8, "seed": self._seed}, {}, {})
            file.write_text(json.dumps({"run_id": run.run_id, "policy": run.policy}))
        found: dict[str, str] = json.loads(file.read_text())
        return found

    def _point(self, updates: int, policy: str) -> Point:
        rewards = self._evaluated(updates, policy, rare=1.0)
        words: dict[str, list[float]] = defaultdict(list)
        for word, reward in rewards:
            words[word].append(reward)
        easy = self._evaluated(updates, policy, rare=0.0)
        return Point(
            updates,
            solved=mean(float(mean(each) >= 0.5) for each in words.values()),
            tail=mean(reward for _, reward in rewards),
            easy=mean(reward for _, reward in easy),
        )

    def _evaluated(self, updates: int, policy: str, rare: float) -> list[tuple[str, float]]:
        """Words of the tail (empty: an easy task), and the rewards."""
        given = {
            "policy": policy,
            "env": "hard_tail",
            "env_args": {"rare": rare},
            "episodes": EPISODES,
            "max_tokens": TRAINING["max_tokens"],
            "iteration": updates,
            "work_uri": self._work,
        }
        uri = load_step("evaluate").execute(given, {}, {}).uri
        turns = [one.transitions[-1] for one in read_episodes([uri])]
        return [(str(turn.info.get("tail", "")), turn.env_reward) for turn in turns]

    def _tail_groups(self) -> tuple[int, int]:
        """Of the training: groups that played the tail, and groups that were replayed."""
        uris = [r.values["uri"] for r in Work(self._work).records() if r.step == "rollout"]
        firsts = [one.transitions[0] for one in read_episodes(uris) if one.key[2] == 0]
        tail = sum("tail" in first.info for first in firsts)
        return tail, sum("replay" in first.task for first in firsts)


def main() -> None:
    options = _options()
    runs = [Run(options.folder, arm, seed) for seed in options.seeds for arm in options.arms]
    if missing := [run for run in runs if run.result() is None]:
        with lasting_service(options.folder, DTYPE) as service:
            os.environ.update(service.env)
            for run in missing:
                run.execute()
    _tell([result for run in runs if (result := run.result())])


def _tell(results: list[Result]) -> None:
    DOCS.mkdir(parents=True, exist_ok=True)
    data = {
        "training": {**TRAINING, "iterations": ITERATIONS, "rare": RARE, "words": list(TAIL)[:6]},
        "dtype": DTYPE,
        "arms": ARMS,
        "results": [asdict(result) for result in results],
    }
    (DOCS / "replay.json").write_text(json.dumps(data, indent=1) + "\n")
    say("arm    seed  tail groups  replayed  tail solved  tail reward  easy reward")
    for one in results:
        last = one.points[-1]
        say(
            f"{one.arm:<7}{one.seed:4d}{one.tail_groups:13d}{one.replayed:10d}"
            f"{last.solved:13.2f}{last.tail:13.2f}{last.easy:13.2f}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.learning.replay", description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["off", "fresh"])
    parser.add_argument("--folder", type=Path, default=Path("learning-output/replay"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
