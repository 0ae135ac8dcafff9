"""Evaluate and promote: a policy that is good enough is published, with a card that says why."""

from __future__ import annotations

from pydantic import Field

from tuft_pipelines.frame import EVALUATION, Named, begin, end, evaluate
from tuft_pipelines.parameters import gathered
from tuft_pipelines.ready import Builder, NoChoices, ReadyPipeline


class PromotionParams(Named):
    policy: str = Field(
        min_length=1, description="tinker:// path of the policy to judge, and to publish."
    )


def compose(build: Builder, choices: NoChoices) -> None:
    del choices
    checked = begin(build)
    judged = evaluate(build, "policy", build.value("policy"), 0).after(checked)
    build.task("promote", "promote", metric=judged.outputs["mean_reward"])
    end(build)


_STEPS = ("promote", "evaluate", "report", "preflight")
EVALUATE_AND_PROMOTE = ReadyPipeline(
    name="evaluate_and_promote",
    summary="Evaluate a policy, and publish it if it is good enough.",
    parameters=gathered(PromotionParams, _STEPS, EVALUATION, decided=("metric", "metric_name")),
    compose=compose,
    renamed=EVALUATION,
)
EVALUATE_AND_PROMOTE_MINIMAL = EVALUATE_AND_PROMOTE.minimal(
    *("name", "work_root", "policy", "target_uri", "model_name"),
    *("env", "reward", "eval_episodes", "threshold"),
)
