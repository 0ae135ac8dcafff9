"""Rescore and update: train on episodes that are there already, judged by another reward."""

from __future__ import annotations

from pydantic import Field

from tuft_components.steps import JsonList
from tuft_pipelines.frame import EVALUATION, Named, begin, end, evaluate
from tuft_pipelines.parameters import gathered
from tuft_pipelines.ready import Builder, NoChoices, ReadyPipeline


class RescoringParams(Named):
    run_id: str = Field(min_length=1, description="The training run to go on with.")
    iteration: int = Field(
        ge=0,
        description="Number of updates that the run has had. Submitted again with the same "
        "number, the pipeline finds its update and does not repeat it.",
    )
    trajectories_uris: JsonList = Field(
        min_length=1,
        description="JSON list of URIs of the episodes: Parquet files, or prefixes below which "
        "they are, such as a rollout's `uri`.",
    )
    reward: str = Field(min_length=1, description="The new reward: a name, or module:function.")


def compose(build: Builder, choices: NoChoices) -> None:
    del choices
    checked = begin(build)
    judged = build.task("rescore", "rescore", after=[checked])
    updated = build.task(
        "update",
        "update",
        batch=judged.outputs["batch"],
        checkpoint_name=f"rescored-{build.value('name')}",
    )
    evaluate(build, "after", updated.outputs["policy"], build.value("iteration"))
    end(build)


RESCORE_AND_UPDATE = ReadyPipeline(
    name="rescore_and_update",
    summary="One update on stored episodes, judged by another reward, without sampling again.",
    parameters=gathered(
        RescoringParams, ("rescore", "update", "evaluate", "report", "preflight"), EVALUATION
    ),
    compose=compose,
    renamed=EVALUATION,
)
RESCORE_AND_UPDATE_MINIMAL = RESCORE_AND_UPDATE.minimal(
    "name",
    "work_root",
    "run_id",
    "iteration",
    "trajectories_uris",
    "reward",
    "env",
    "learning_rate",
)
