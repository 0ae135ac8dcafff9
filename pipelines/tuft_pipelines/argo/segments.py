"""`tuft-grpo`: many iterations a pod, segment by segment, until it is good enough."""

from __future__ import annotations

from typing import Any, NamedTuple

from tuft_components.profile import Profile
from tuft_pipelines.argo.frame import (
    NEW_RUN,
    ONE_WRITER,
    WORK,
    evaluation,
    exit_template,
    preflight,
    start,
)
from tuft_pipelines.argo.parts import (
    Knob,
    Knobs,
    call,
    computed,
    outputs_of,
    passed_on,
    result,
    taken,
)
from tuft_pipelines.argo.split_steps import CHECKED
from tuft_pipelines.argo.workflows import workflow_template

_STATE = ("policy", "checkpoint", "iterations_done", "last_reward")
SEGMENTED_RUN = {
    **NEW_RUN,
    "iterations": Knob("20", "Iterations, at most."),
    "iterations_a_segment": Knob(
        "10",
        "Iterations of one pod, which ends with a checkpoint; at most 90 segments.",
    ),
}


class Trained(NamedTuple):
    """Groups of steps of `main`, and its outputs."""

    steps: list[list[dict[str, Any]]]
    outputs: dict[str, Any]


def grpo(profile: Profile) -> dict[str, Any]:
    knobs = Knobs(SEGMENTED_RUN)
    train = trained(knobs, result("start", "run_id"), result("start", "policy"))
    main = {
        "name": "main",
        "outputs": train.outputs,
        "steps": [[checked(knobs)], [start(knobs)], *train.steps],
    }
    return workflow_template(
        "tuft-grpo",
        "Reinforcement learning with many iterations a pod, and early stop",
        knobs,
        [main, segments(knobs), exit_template(knobs)],
        profile,
        mutex=ONE_WRITER,
    )


def checked(knobs: Knobs) -> dict[str, Any]:
    return preflight(knobs, *CHECKED)


def trained(knobs: Knobs, run_id: str, policy: str) -> Trained:
    """The segments of a run that has had no update yet, between two evaluations.

    They need the template of `segments`.
    """
    before = evaluation("before", knobs, policy, "0")
    given = {"run_id": run_id, "policy": policy, "checkpoint": "", "iterations_done": "0"}
    loop = call("loop", "segments", given)
    after = evaluation("after", knobs, result("loop", "policy"), result("loop", "iterations_done"))
    outputs = outputs_of({name: result("loop", name) for name in _STATE})
    return Trained([[before], [loop], [after]], outputs)


def segments(knobs: Knobs) -> dict[str, Any]:
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
