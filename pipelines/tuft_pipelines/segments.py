"""GRPO in segments: train_loop → evaluate, several times, each train_loop many iterations in a pod.

An iteration costs no pod, and the length of a segment is a parameter. KFP has conditions, but
`kfp.local` skips what they hold without a word: the early stop is in the steps. Once the reward is
`stop_at_reward`, the segments that are left pass the policy on and do nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tuft_components.steps import Contract
from tuft_pipelines.frame import EVALUATION, NewRun, begin_run, end, evaluate
from tuft_pipelines.parameters import gathered
from tuft_pipelines.ready import Builder, ReadyPipeline

STEPS = ("start_run", "train_loop", "evaluate", "report", "preflight")
MINIMAL = ("name", "work_root", "base_model", "env", "reward", "iterations", "learning_rate")


class SegmentChoices(Contract):
    segments: int = Field(
        default=4,
        ge=1,
        le=10,
        description="Each trains for `iterations` iterations (a parameter) at most, and is "
        "evaluated. For more iterations, make segments longer.",
    )


class SegmentedRun(NewRun):
    iterations: int = Field(default=8, ge=1, description="Iterations of a segment, at most.")


def compose(build: Builder, choices: SegmentChoices) -> None:
    start = begin_run(build)
    train(build, choices.segments, start.outputs["run_id"], start.outputs["policy"])
    end(build)


def train(build: Builder, segments: int, run_id: Any, policy: Any) -> None:
    """The segments of a run that has had no update yet, with evaluations around them."""
    evaluate(build, "before", policy, 0)
    passed: dict[str, Any] = {"policy_before": policy}
    for number in range(1, segments + 1):
        trained = build.task(
            "train_loop",
            f"train {number}",
            run_id=run_id,
            checkpoint_name=f"segment-{number}",
            **passed,
        )
        outputs = trained.outputs
        evaluate(build, f"after {number}", outputs["policy"], outputs["iterations_done"])
        passed = {
            "policy_before": outputs["policy"],
            "checkpoint_before": outputs["checkpoint"],
            "reward_before": outputs["last_reward"],
            "first_iteration": outputs["iterations_done"],
        }


GRPO = ReadyPipeline(
    name="grpo",
    summary="Reinforcement learning in segments of many iterations, each evaluated.",
    parameters=gathered(SegmentedRun, STEPS, EVALUATION),
    compose=compose,
    choices=SegmentChoices,
    renamed=EVALUATION,
)
GRPO_MINIMAL = GRPO.minimal(*MINIMAL)
