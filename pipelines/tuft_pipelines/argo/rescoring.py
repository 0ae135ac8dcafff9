"""`tuft-rescore-and-update`: train on episodes that are there already, judged by another reward."""

from __future__ import annotations

from typing import Any

from tuft_components.profile import Profile
from tuft_pipelines.argo.frame import (
    WORK,
    WORK_ROOT,
    evaluation,
    exit_template,
    preflight,
)
from tuft_pipelines.argo.parts import Knob, Knobs, argument, computed, outputs_of, result
from tuft_pipelines.argo.workflows import workflow_template

_OWN_KNOBS = {
    "name": Knob(None, "Of the workflow's folder below work_root."),
    "run_id": Knob(None, "The training run to go on with."),
    "iteration": Knob(
        None,
        "Number of updates that the run has had. A workflow with the same number finds its update "
        "and does not repeat it.",
    ),
    "trajectories_uris": Knob(
        None,
        "JSON list of URIs of the episodes: Parquet files, or prefixes below which they are.",
    ),
    "reward": Knob(None, "The new reward: a name, or module:attribute."),
    "work_root": WORK_ROOT,
}
_BATCH = f"{WORK}/batches/{argument('iteration')}.parquet"
# Of its own for each of the run's updates: a second one must not find its name taken.
_SAVED = f"rescored-{argument('iteration')}"
_UPDATES = computed("asInt(workflow.parameters.iteration) + 1")


def rescore_and_update(profile: Profile) -> dict[str, Any]:
    knobs = Knobs(_OWN_KNOBS)
    rescore = knobs.step(
        "rescore",
        "rescore",
        {"work_uri": WORK, "batch_uri": _BATCH},
        hidden=("trajectories", "old_batch"),
    )
    update = knobs.step(
        "update",
        "update",
        {"batch": _BATCH, "checkpoint_name": _SAVED, "work_uri": WORK},
    )
    after = evaluation("after", knobs, result("update", "policy"), _UPDATES)
    checked = preflight(knobs, "env", "env_args", "reward", "reward_args")
    main = {
        "name": "main",
        "outputs": outputs_of({name: result("update", name) for name in ("policy", "checkpoint")}),
        "steps": [[checked], [rescore], [update], [after]],
    }
    return workflow_template(
        "tuft-rescore-and-update",
        "One update on stored episodes, judged by another reward, without sampling again",
        knobs,
        [main, exit_template(knobs)],
        profile,
        mutex=f"tuft-run-{argument('run_id')}",
    )
