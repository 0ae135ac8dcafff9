"""What the ready pipelines have in common: how they begin, and how they end."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tuft_components.steps import Contract
from tuft_pipelines.ready import Builder


class Named(Contract):
    """Of every pipeline."""

    name: str = Field(
        min_length=1,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Of this pipeline run, and its folder. A pipeline that is submitted again with "
        "the same name and parameters goes on where the first one ended.",
    )
    work_root: str = Field(
        default="s3://tuft/pipelines",
        min_length=1,
        description="Folder or s3://bucket/prefix below which the pipeline run has its folder, "
        "where steps keep episodes and records for retries, other pods and the report.",
    )


class NewRun(Named):
    """Of pipelines that make a training run."""

    name: str = Field(
        min_length=1,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Of the training run, unique among yours, and of the pipeline run's folder. A "
        "pipeline that is submitted again with the same name and parameters goes on where the "
        "first one ended.",
    )


EVALUATION = {
    ("evaluate", "episodes"): "eval_episodes",
    ("evaluate", "split"): "eval_split",
    ("evaluate", "temperature"): "eval_temperature",
}
"""Parameters of evaluations that are not those of rollouts."""


def begin(build: Builder) -> Any:
    """The first task: is all there that the others need?"""
    return build.task("preflight", "preflight")


def begin_run(build: Builder) -> Any:
    """Preflight, and the training run; its outputs are `run_id` and `policy`."""
    checked = begin(build)
    return build.task("start_run", "start run", after=[checked])


def evaluate(build: Builder, name: str, policy: Any, iteration: Any) -> Any:
    return build.task("evaluate", f"evaluate {name}", policy=policy, iteration=iteration)


def end(build: Builder) -> Any:
    """The last task: the report on everything that was recorded."""
    return build.last("report", "report", title=build.value("name"))
