"""`tuft-train-loop`: many iterations a pod, segment by segment, until it is good enough."""

from __future__ import annotations

from typing import Any

from tuft_components.profile import Profile
from tuft_pipelines.argo.grpo import (
    COMMON_KNOBS,
    evaluation,
    preflight,
    start,
)
from tuft_pipelines.argo.parts import (
    Knob,
    Knobs,
    argument,
    call,
    computed,
    outputs_of,
    passed_on,
    result,
    taken,
)
from tuft_pipelines.argo.workflows import WORK, exit_template, workflow_template

NAME_OF_PIPELINE = "tuft-train-loop"
_STATE = ("policy", "checkpoint", "iterations_done", "last_reward")
_OWN_KNOBS = {
    **COMMON_KNOBS,
    "iterations": Knob("20", "Iterations, at most."),
    "iterations_a_segment": Knob(
        "10",
        "Iterations of one pod, which ends with a checkpoint; at most 90 segments.",
    ),
}


def train_loop(profile: Profile) -> dict[str, Any]:
    knobs = Knobs(_OWN_KNOBS)
    templates = [_main(knobs), _segments(knobs), exit_template(knobs, WORK)]
    return workflow_template(
        NAME_OF_PIPELINE,
        "Reinforcement learning with many iterations a pod, and early stop",
        knobs,
        templates,
        profile,
        mutex=f"tuft-run-{argument('name')}",
    )


def _main(knobs: Knobs) -> dict[str, Any]:
    policy = result("start", "policy")
    segments = call(
        "loop",
        "segments",
        {
            "run_id": result("start", "run_id"),
            "policy": policy,
            "checkpoint": "",
            "iterations_done": "0",
        },
    )
    after = evaluation("after", knobs, result("loop", "policy"), result("loop", "iterations_done"))
    return {
        "name": "main",
        "outputs": outputs_of({name: result("loop", name) for name in _STATE}),
        "steps": [
            [preflight(knobs)],
            [start(knobs)],
            [evaluation("before", knobs, policy, "0")],
            [segments],
            [after],
        ],
    }


def _segments(knobs: Knobs) -> dict[str, Any]:
    done = "asInt(inputs.parameters.iterations_done)"
    size = "asInt(workflow.parameters.iterations_a_segment)"
    left = f"asInt(workflow.parameters.iterations) - {done}"
    one = knobs.step(
        "one",
        "train_loop",
        {
            "run_id": taken("run_id"),
            "policy_before": taken("policy"),
            "checkpoint_before": taken("checkpoint"),
            "first_iteration": taken("iterations_done"),
            "iterations": computed(f"{size} < {left} ? {size} : {left}"),
            "checkpoint_name": "segment",
            "work_uri": WORK,
            "history_uri": f"{WORK}/history/{taken('iterations_done')}.parquet",
        },
        hidden=("reward_before",),  # the recursion has looked at it
    )
    outputs = "steps.one.outputs.parameters"
    more = (
        f"asInt({outputs}.iterations_done) < asInt(workflow.parameters.iterations) && "
        f"asFloat({outputs}.last_reward) < asFloat(workflow.parameters.stop_at_reward)"
    )
    state = {name: result("one", name) for name in ("policy", "checkpoint", "iterations_done")}
    again = call(
        "next",
        "segments",
        {"run_id": taken("run_id"), **state},
        when=computed(more),
    )
    given = ("run_id", "policy", "checkpoint", "iterations_done")
    return {
        "name": "segments",
        "inputs": {"parameters": [{"name": name} for name in given]},
        "outputs": outputs_of({n: passed_on(n, of="next", otherwise="one") for n in _STATE}),
        "steps": [[one], [again]],
    }
