"""`tuft-evaluate-and-promote`: measure a policy, and publish it if it is good enough."""

from __future__ import annotations

from typing import Any

from tuft_components.profile import Profile
from tuft_pipelines.argo.frame import WORK, WORK_ROOT, evaluation, exit_template, preflight
from tuft_pipelines.argo.parts import Knob, Knobs, argument, computed, outputs_of, result
from tuft_pipelines.argo.workflows import workflow_template

_OWN_KNOBS = {
    "name": Knob(None, "Of the workflow's folder below work_root."),
    "policy": Knob(None, "tinker:// path of the policy."),
    "baseline_policy": Knob(
        "", "A policy, or a base model, that it must beat. Empty: none is measured."
    ),
    "gate": Knob(
        "",
        "threshold, baseline, both or none. Empty: both where a baseline_policy is given, else "
        "threshold.",
    ),
    "work_root": WORK_ROOT,
}
_GATE = (
    "workflow.parameters.gate != '' ? workflow.parameters.gate : "
    "(workflow.parameters.baseline_policy != '' ? 'both' : 'threshold')"
)
_BASELINE = (
    "(steps.old?.outputs?.parameters?.mean_reward ?? '') != '' ? "
    "steps.old.outputs.parameters.mean_reward : '0'"
)


def evaluate_and_promote(profile: Profile) -> dict[str, Any]:
    knobs = Knobs(_OWN_KNOBS)
    checked = preflight(knobs, "policy", "env", "env_args", "reward", "reward_args")
    # Their records are told apart by the iteration: before, and after.
    measured = [
        evaluation("new", knobs, argument("policy"), "1"),
        evaluation(
            "old",
            knobs,
            argument("baseline_policy"),
            "0",
            when=computed("workflow.parameters.baseline_policy != ''"),
        ),
    ]
    promote = knobs.step(
        "promote",
        "promote",
        {
            "policy": argument("policy"),
            "metric": result("new", "mean_reward"),
            "gate": computed(_GATE),
            "baseline": computed(_BASELINE),
            "model_uri": f"{WORK}/promoted.json",
            "work_uri": WORK,
        },
        hidden=("metric_name", "card_metrics"),
    )
    outputs = {name: result("promote", name) for name in ("promoted", "uri")}
    main = {
        "name": "main",
        "outputs": outputs_of({**outputs, "mean_reward": result("new", "mean_reward")}),
        "steps": [[checked], measured, [promote]],
    }
    return workflow_template(
        "tuft-evaluate-and-promote",
        "Measure a policy, and publish it as a version of a model if it is good enough",
        knobs,
        [main, exit_template(knobs)],
        profile,
        mutex=f"tuft-model-{argument('model_name')}",
    )
