"""GRPO in split steps: rollouts, feedback and updates are tasks of their own.

For rollouts that take minutes, and where everything that happens is to be seen. KFP has no loop
over a changing policy, so that the iterations are unrolled when the pipeline is compiled.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from tuft_components.steps import Contract
from tuft_pipelines.frame import EVALUATION, NewRun, begin_run, end, evaluate
from tuft_pipelines.parameters import gathered
from tuft_pipelines.ready import Builder, ReadyPipeline

MAX_ITERATIONS = 20
MAX_TASKS = 160
STEPS = ("start_run", "rollout", "feedback", "update", "evaluate", "report", "preflight")


class SplitChoices(Contract):
    iterations: int = Field(default=8, ge=1, description="Updates.")
    shards: int = Field(
        default=1, ge=1, description="Rollouts of an iteration, side by side in pods of their own."
    )
    max_staleness: int = Field(
        default=0,
        ge=0,
        le=4,
        description="Updates that a rollout need not wait for; their off-policy data is "
        "corrected by the recorded log-probabilities.",
    )
    evaluate_every: int = Field(
        default=0, ge=0, description="Evaluate after so many updates; 0: before and after all."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.iterations > MAX_ITERATIONS:
            raise ValueError(
                f"iterations is {self.iterations}; split steps go up to {MAX_ITERATIONS}, since "
                "each is tasks of the compiled pipeline. The pipelines whose iterations are in "
                "train_loop (grpo, grpo_judge) have no such limit"
            )
        tasks = self.iterations * (self.shards + 2)
        if tasks > MAX_TASKS:
            raise ValueError(
                f"{self.iterations} iterations of {self.shards} rollouts are {tasks} tasks; a "
                f"compiled pipeline holds {MAX_TASKS}. Take fewer of either"
            )
        return self


def compose(build: Builder, choices: SplitChoices) -> None:
    start = begin_run(build)
    policies = [start.outputs["policy"]]
    evaluate(build, "before", policies[0], 0)
    for iteration in range(choices.iterations):
        version = max(0, iteration - choices.max_staleness)
        last = iteration + 1 == choices.iterations
        updated = build.task(
            "update",
            f"update {iteration + 1}",
            run_id=start.outputs["run_id"],
            batch=_batch(build, iteration, policies[version], version, choices.shards),
            iteration=iteration,
            # With its number, so that the run can go on later with more iterations.
            checkpoint_name=f"checkpoint-{iteration + 1:06d}" if last else "",
        )
        policies.append(updated.outputs["policy"])
        due = choices.evaluate_every and (iteration + 1) % choices.evaluate_every == 0
        if last or due:
            name = "after" if last else f"after {iteration + 1}"
            evaluate(build, name, policies[-1], iteration + 1)
    end(build)


def _batch(build: Builder, iteration: int, policy: Any, version: int, shards: int) -> Any:
    """Rollouts and feedback of an iteration: the batch that its update trains on."""
    number = iteration + 1
    common = {"policy": policy, "iteration": iteration, "policy_version": version}
    if shards == 1:
        rolled = build.task("rollout", f"rollout {number}", **common)
        given = {"trajectories": rolled.outputs["trajectories"]}
    else:
        uris = [
            build.task(
                "rollout",
                f"rollout {number}, {shard + 1} of {shards}",
                shard=shard,
                shards=shards,
                **common,
            ).outputs["uri"]
            for shard in range(shards)
        ]
        given = {"trajectories_uris": uris}
    judged = build.task("feedback", f"feedback {number}", iteration=iteration, **given)
    return judged.outputs["batch"]


GRPO_SPLIT = ReadyPipeline(
    name="grpo_split",
    summary="Reinforcement learning, each rollout, feedback and update a task of its own.",
    parameters=gathered(NewRun, STEPS, EVALUATION),
    compose=compose,
    choices=SplitChoices,
    renamed=EVALUATION,
)
MINIMAL = ("name", "work_root", "base_model", "env", "reward", "learning_rate")
GRPO_SPLIT_MINIMAL = GRPO_SPLIT.minimal(*MINIMAL)
