"""`tuft-grpo-split`: rollout (over shards), feedback and update as pods, until it is good enough.

Argo has no while: a template calls itself. It may do so 100 deep, so that there are two such
templates: `level` does up to `iterations_a_level` iterations, `loop` one level after the other.
"""

from __future__ import annotations

from typing import Any

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
from tuft_pipelines.argo.workflows import workflow_template

CHECKED = ("base_model", "env", "env_args", "split", "reward", "reward_args")
"""What the preflight of a pipeline with rollouts looks at."""

_STATE = ("policy", "iteration", "reward")
"""What goes from one iteration to the next: the policy, its number of updates, its batch's reward."""

_OWN_KNOBS = {
    **NEW_RUN,
    "iterations": Knob("8", "Iterations, at most."),
    "iterations_a_level": Knob(
        "10",
        "Iterations a level of Argo's recursion. It and iterations / iterations_a_level together "
        "may be 90 at most.",
    ),
    "stop_at_reward": Knob(
        "1e30",
        "The last iteration is the one whose batch has this mean reward or more.",
    ),
    "shards": Knob("1", "Pods that play the episodes of an iteration."),
    "evaluate_every": Knob("0", "Evaluate the policy every so many iterations; 0: never."),
    "checkpoint_every": Knob(
        "0",
        "Save weights and optimizer every so many iterations, as checkpoint-N; 0: never.",
    ),
}


_NUMBER = "asInt(inputs.parameters.iteration)"
_EVALUATED = (
    f"asInt(workflow.parameters.evaluate_every) > 0 && {_NUMBER} > 0 && "
    f"{_NUMBER} % asInt(workflow.parameters.evaluate_every) == 0"
)
_SAVED = (
    f"asInt(workflow.parameters.checkpoint_every) > 0 && "
    f"({_NUMBER} + 1) % asInt(workflow.parameters.checkpoint_every) == 0 ? "
    f"'checkpoint-' + string({_NUMBER} + 1) : ''"
)


def _more(call_name: str) -> str:
    """Whether there is another iteration after that call: an expression."""
    outputs = f"steps.{call_name}.outputs.parameters"
    return (
        f"asInt({outputs}.iteration) < asInt(workflow.parameters.iterations) && "
        f"asFloat({outputs}.reward) < asFloat(workflow.parameters.stop_at_reward)"
    )


def grpo_split(profile: Profile) -> dict[str, Any]:
    knobs = Knobs(_OWN_KNOBS)
    templates = [_main(knobs), _loop(), _level(), _iterate(knobs), exit_template(knobs)]
    return workflow_template(
        "tuft-grpo-split",
        "Reinforcement learning with one pod a step, early stop and fan-out of rollouts",
        knobs,
        templates,
        profile,
        mutex=ONE_WRITER,
    )


def _main(knobs: Knobs) -> dict[str, Any]:
    policy = result("start", "policy")
    loop = call(
        "loop",
        "loop",
        {"run_id": result("start", "run_id"), "policy": policy, "iteration": "0"},
    )
    after = evaluation("after", knobs, result("loop", "policy"), result("loop", "iteration"))
    return {
        "name": "main",
        "outputs": outputs_of({name: result("loop", name) for name in _STATE}),
        "steps": [
            [preflight(knobs, *CHECKED)],
            [start(knobs)],
            [evaluation("before", knobs, policy, "0")],
            [loop],
            [after],
        ],
    }


def _inputs() -> dict[str, Any]:
    return {"parameters": [{"name": name} for name in ("run_id", "policy", "iteration")]}


def _handed_on() -> dict[str, str]:
    return {name: taken(name) for name in ("run_id", "policy", "iteration")}


def _after(call_name: str) -> dict[str, str]:
    """The state after that call, for the next one."""
    state = {name: result(call_name, name) for name in ("policy", "iteration")}
    return {"run_id": taken("run_id"), **state}


def _loop() -> dict[str, Any]:
    return {
        "name": "loop",
        "inputs": _inputs(),
        "outputs": outputs_of({n: passed_on(n, of="next", otherwise="level") for n in _STATE}),
        "steps": [
            [call("level", "level", _handed_on())],
            [call("next", "loop", _after("level"), when=computed(_more("level")))],
        ],
    }


def _level() -> dict[str, Any]:
    full = (
        "asInt(steps.one.outputs.parameters.iteration) % "
        "asInt(workflow.parameters.iterations_a_level) == 0"
    )
    return {
        "name": "level",
        "inputs": _inputs(),
        "outputs": outputs_of({n: passed_on(n, of="next", otherwise="one") for n in _STATE}),
        "steps": [
            [call("one", "iterate", _handed_on())],
            [
                call(
                    "next",
                    "level",
                    _after("one"),
                    when=computed(f"{_more('one')} && not ({full})"),
                )
            ],
        ],
    }


def _iterate(knobs: Knobs) -> dict[str, Any]:
    iteration = taken("iteration")
    rollout = knobs.step(
        "rollout",
        "rollout",
        {
            "policy": taken("policy"),
            "iteration": iteration,
            "shard": "{{item}}",
            "work_uri": WORK,
            "trajectories_uri": f"{WORK}/trajectories/{iteration}-{{{{item}}}}.parquet",
        },
        withParam=computed("toJson(0..(asInt(workflow.parameters.shards) - 1))"),
    )
    feedback = knobs.step(
        "feedback",
        "feedback",
        {
            "trajectories": "",
            "trajectories_uris": result("rollout", "uri", kind="tasks"),
            "iteration": iteration,
            "work_uri": WORK,
            "batch_uri": f"{WORK}/batches/{iteration}.parquet",
        },
        depends="rollout",
    )
    update = knobs.step(
        "update",
        "update",
        {
            "run_id": taken("run_id"),
            "batch": f"{WORK}/batches/{iteration}.parquet",
            "iteration": iteration,
            "checkpoint_name": computed(_SAVED),
            "work_uri": WORK,
        },
        depends="feedback",
    )
    evaluate = evaluation("evaluate", knobs, taken("policy"), iteration, when=computed(_EVALUATED))
    return {
        "name": "iterate",
        "inputs": _inputs(),
        "outputs": outputs_of(
            {
                "policy": result("update", "policy", kind="tasks"),
                "iteration": f"{_NUMBER} + 1",
                "reward": result("feedback", "mean_reward", kind="tasks"),
            }
        ),
        "dag": {"tasks": [evaluate, rollout, feedback, update]},
    }
