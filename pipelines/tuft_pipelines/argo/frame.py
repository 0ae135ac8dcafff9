"""What our pipelines have in common: their first arguments, and how they begin, measure and end."""

from __future__ import annotations

from typing import Any

from tuft_pipelines.argo.parts import Knob, Knobs, argument

NAME = Knob(
    None,
    "Name of the training run, unique in your tenant. A workflow of the same name goes on where "
    "the last one ended.",
)
WORK_ROOT = Knob(
    "s3://tuft/pipelines",
    "s3://bucket/prefix below which the workflow keeps its data, under its name.",
)
WORK = f"{argument('work_root')}/{argument('name')}"
"""The work_uri of the steps."""

NEW_RUN = {
    "name": NAME,
    "work_root": WORK_ROOT,
    "seed": Knob("0", "Of the adapter's first weights, the tasks and the samples."),
}
"""Of pipelines that make a training run."""

EVALUATION = {
    "episodes": "eval_episodes",
    "split": "eval_split",
    "temperature": "eval_temperature",
}
"""Parameters of evaluations that are not those of rollouts."""

ONE_WRITER = f"tuft-run-{argument('name')}"
"""A mutex: workflows that would write to one training run wait for each other."""


def preflight(knobs: Knobs, *used: str) -> dict[str, Any]:
    """What the other steps are going to use, by the knobs of those names."""
    hidden = {"env", "env_args", "reward", "reward_args", "base_model", "split", "policy"}
    return knobs.step(
        "preflight",
        "preflight",
        {**{name: argument(name) for name in used}, "work_uri": WORK},
        hidden=("wait_s", *sorted(hidden - set(used))),
    )


def start(knobs: Knobs) -> dict[str, Any]:
    return knobs.step("start", "start_run", {"name": argument("name"), "work_uri": WORK})


def evaluation(
    name: str, knobs: Knobs, policy: str, iteration: str, **options: Any
) -> dict[str, Any]:
    return knobs.step(
        name,
        "evaluate",
        {"policy": policy, "iteration": iteration, "work_uri": WORK},
        renamed=EVALUATION,
        **options,
    )


def exit_template(knobs: Knobs) -> dict[str, Any]:
    """However the workflow ended: the report of what is there. Where it fails, the work is as it was.

    Nothing need be given back: who may write to a training run is settled by writer epochs, which
    the next one to attach takes (docs/adr/0005).
    """
    report = knobs.step(
        "report",
        "report",
        {
            "work_uri": WORK,
            "title": f"{argument('name')}: {{{{workflow.status}}}}",
        },
        renamed={"samples": "report_samples"},
        hidden=("longest_text",),
        continueOn={"failed": True, "error": True},
    )
    return {"name": "exit", "steps": [[report]]}
