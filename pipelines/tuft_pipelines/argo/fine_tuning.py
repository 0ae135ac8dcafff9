"""`tuft-sft-then-rl`: a training run learns from examples first, and then from rewards."""

from __future__ import annotations

from typing import Any

from tuft_components.profile import Profile
from tuft_components.steps import load_step
from tuft_pipelines.argo.frame import ONE_WRITER, WORK, exit_template, start
from tuft_pipelines.argo.parts import Knobs, result
from tuft_pipelines.argo.segments import SEGMENTED_RUN, checked, segments, trained
from tuft_pipelines.argo.workflows import workflow_template

_SHARED = frozenset(
    {
        *("dataset_uri", "seed", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"),
        *("policy_ttl_seconds", "run_id", "work_uri", "checkpoint_name"),
        *("policy_name", "step_key", "timeout_s"),
    }
)


def sft_then_rl(profile: Profile) -> dict[str, Any]:
    knobs = Knobs(SEGMENTED_RUN)
    tuned = knobs.step(
        "tune",
        "sft",
        {"run_id": result("start", "run_id"), "work_uri": WORK},
        renamed={
            name: f"sft_{name}"
            for name in load_step("sft").params.model_fields
            if name not in _SHARED
        },
        hidden=("checkpoint_name",),
    )
    train = trained(knobs, result("start", "run_id"), result("tune", "policy"))
    main = {
        "name": "main",
        "outputs": train.outputs,
        "steps": [[checked(knobs)], [start(knobs)], [tuned], *train.steps],
    }
    return workflow_template(
        "tuft-sft-then-rl",
        "Supervised fine-tuning on examples, and reinforcement learning after it",
        knobs,
        [main, segments(knobs), exit_template(knobs)],
        profile,
        mutex=ONE_WRITER,
    )
