"""What a judge's errors cost: `python -m tests.learning.judges --seeds 1`.

Trains the demo model on `second_word` by train_loop, with rewards by judges behind an
OpenAI-compatible endpoint: right nine times of ten, by scores and by pairs, and one that always says
yes. Starts a service; some minutes a seed. The table goes to stdout, the data to docs/learning/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tuft_sdk
from tests.learning.judge_server import judge_server
from tuft_components.promote.adapters import WEIGHTS
from tuft_components.steps import load_step
from tuft_components.work import Work
from tuft_pipelines.local_service import local_service

DOCS = Path(__file__).parents[2] / "docs" / "learning"
ARMS: dict[str, dict[str, Any]] = {
    "the environment": {"reward": "env"},
    "scores, right 90 %": {"reward": "judge", "model": "right-90"},
    "pairs, right 90 %": {"reward": "judge_pairwise", "model": "right-90", "opponents": 3},
    "always yes": {"reward": "judge", "model": "yes"},
}
TRAINING = {"groups": 8, "group_size": 8, "max_tokens": 2, "learning_rate": 3e-4}
ITERATIONS, EPISODES = 12, 192


@dataclass(frozen=True)
class Result:
    """Held-out exact match before and after; `questions` to the judge; `same_weights`: whether
    those after are those before, to the bit."""

    arm: str
    seed: int
    before: float
    after: float
    questions: float
    same_weights: bool


def run(arm: str, seed: int, endpoint: str, folder: Path) -> Result:
    started = load_step("start_run").execute({"lora_rank": 8, "seed": seed}, {}, {})
    args = dict(ARMS[arm])
    reward = args.pop("reward")
    if args:
        args["endpoint"] = endpoint
    work = str((folder / f"{arm}-{seed}").absolute())
    trained = load_step("train_loop").execute(
        {
            **TRAINING,
            "run_id": started.run_id,
            "policy_before": started.policy,
            "iterations": ITERATIONS,
            "seed": seed,
            "reward": reward,
            "reward_args": args,
            "work_uri": work,
        },
        {},
        {"history": str(folder / f"{arm}-{seed}.parquet")},
    )
    judged = [record.metrics for record in Work(work).records() if record.step == "feedback"]
    return Result(
        arm,
        seed,
        before=_evaluated(started.policy, seed),
        after=_evaluated(trained.policy, seed),
        questions=sum(metrics.get("judge_questions", 0.0) for metrics in judged),
        same_weights=_digest(started.policy) == _digest(trained.policy),
    )


def _evaluated(policy: str, seed: int) -> float:
    """On tasks that were not trained on, by the right answer, whatever judged the training."""
    given = {"policy": policy, "reward": "exact_match", "episodes": EPISODES, "seed": seed}
    given["max_tokens"] = TRAINING["max_tokens"]
    reward: float = load_step("evaluate").execute(given, {}, {}).mean_reward
    return reward


def _digest(policy: str) -> str:
    with tuft_sdk.connect() as client:
        return client.checkpoint(policy).files[WEIGHTS].sha256


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.learning.judges", description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as made, judge_server() as endpoint:
        folder = Path(made)
        with local_service(folder / "service", say=_say) as service:
            os.environ.update(service.env)
            for seed in options.seeds:
                for arm in options.arms:
                    results.append(run(arm, seed, endpoint, folder))
                    _say(str(results[-1]))
    DOCS.mkdir(parents=True, exist_ok=True)
    data = {
        "training": {**TRAINING, "iterations": ITERATIONS},
        "arms": ARMS,
        "results": [asdict(result) for result in results],
    }
    (DOCS / "judges.json").write_text(json.dumps(data, indent=1) + "\n")
    sys.stdout.write(table(results))


def table(results: list[Result]) -> str:
    lines = ["| judge | seed | before | after | questions | weights |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {one.arm} | {one.seed} | {one.before:.2f} | {one.after:.2f} | {one.questions:.0f} | "
        f"{'as before' if one.same_weights else 'changed'} |"
        for one in results
    ]
    return "\n".join(lines) + "\n"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
