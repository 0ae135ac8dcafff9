"""train_loop: many iterations of rollout, feedback and update in one process.

It executes the same steps as a pipeline of split steps does, with the same step keys and the same
kept episodes. So it resumes as they do, and either form goes on where the other one stopped.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from tuft_components.envs import make_environment
from tuft_components.feedback.step import FeedbackParams
from tuft_components.rewards import reward_function
from tuft_components.rl.advantages import estimator
from tuft_components.rollout.step import RolloutParams
from tuft_components.service import connect, shared
from tuft_components.shaping import shaping_of
from tuft_components.steps import (
    Contract,
    Dataset,
    Locations,
    Metrics,
    NoInputs,
    Step,
    TimeoutS,
    WorkUri,
)
from tuft_components.train_loop.history import Iteration, write_history
from tuft_components.train_loop.loop import Loop, Plan
from tuft_components.train_loop.places import places
from tuft_components.update.step import UpdateParams

_NEVER = 1e9
"""KFP's parameters and JSON have no infinity."""

# What the loop itself decides, or has a parameter of its own for.
_OWN = frozenset(
    {
        *("run_id", "iteration", "policy", "policy_version", "policy_name", "checkpoint_name"),
        *("shard", "shards", "trajectories_uris", "step_key", "work_uri", "timeout_s"),
    }
)


class LoopParams(Contract):
    """The loop's own; those of the steps come behind them."""

    run_id: str = Field(min_length=1, description="The training run.")
    # A KFP component can't have an input and an output of one name.
    policy_before: str = Field(
        min_length=1, description="tinker:// path of the policy after `first_iteration` updates."
    )
    iterations: int = Field(default=8, ge=1, description="Iterations to do, at most.")
    first_iteration: int = Field(
        default=0, ge=0, description="Number of updates behind `policy_before`."
    )
    max_staleness: int = Field(
        default=0,
        ge=0,
        description="Updates that a rollout's policy may lack. With 1 and more, rollouts overlap "
        "updates, and the loss corrects for it by the recorded logprobs.",
    )
    stop_at_reward: float = Field(
        default=_NEVER,
        description="The loop ends with the iteration whose batch has this mean reward or more. "
        "The default: never.",
    )
    reward_before: float = Field(
        default=-_NEVER,
        description="Mean reward of the batch before. Is it `stop_at_reward` or more, no "
        "iteration is done.",
    )
    checkpoint_before: str = Field(
        default="", description="Checkpoint before; passed on where no iteration is done."
    )
    checkpoint_name: str = Field(
        default="",
        description="Also save weights and optimizer after the last iteration, as NAME-NNNNNN with "
        "the number of updates. Empty: no.",
    )
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 3600.0


def _handed_on(params: type[Contract]) -> list[str]:
    """Parameters that go to a step as they are."""
    return [name for name in params.model_fields if name not in _OWN]


def _of_steps() -> dict[str, Any]:
    """Those parameters of all steps, with their defaults and meaning."""
    return {
        name: (step.model_fields[name].annotation, step.model_fields[name])
        for step in (RolloutParams, FeedbackParams, UpdateParams)
        for name in _handed_on(step)
    }


TrainLoopParams: type[LoopParams] = create_model(
    "TrainLoopParams", __base__=LoopParams, **_of_steps()
)


class TrainLoopOutputs(Contract):
    policy: str = Field(description="tinker:// path of the policy after the last iteration.")
    checkpoint: str = Field(description="tinker:// path of the checkpoint, where one was asked.")
    iterations_done: int = Field(description="Number of updates behind the policy.")
    last_reward: float = Field(description="Mean reward of the last batch.")
    history: Dataset = Field(description="Parquet of schema tuft.history/1: a row an iteration.")
    metrics: Metrics = Field(description="Iterations, rewards and staleness in numbers.")


def run(params: LoopParams, inputs: NoInputs, locations: Locations) -> TrainLoopOutputs:
    del inputs
    done: list[Iteration] = []
    if params.reward_before < params.stop_at_reward:
        given = params.model_dump()
        _check(given)
        with (
            connect(params.timeout_s, tokenizers=True) as client,
            shared(client),
            client.stay_attached(),
            places(params.work_uri) as where,
        ):
            done = Loop(client, _plan(params, given), where).run()
    last = done[-1] if done else None
    return TrainLoopOutputs(
        policy=last.policy if last else params.policy_before,
        checkpoint=last.checkpoint if last else params.checkpoint_before,
        iterations_done=params.first_iteration + len(done),
        last_reward=last.mean_reward if last else params.reward_before,
        history=write_history(locations["history"], done, {"run_id": params.run_id}),
        metrics=_metrics(params, done),
    )


def _check(given: dict[str, Any]) -> None:
    """What is wrong is said before anything is sampled.

    It also imports what the environment needs before `connect` imports the clients: they come
    without torch (see `processes`).
    """
    make_environment(given["env"], given["env_args"])
    reward_function(given["reward"], given["reward_args"])
    estimator(given["advantage"])
    shaping_of(given["shaping"])


def _plan(params: LoopParams, given: dict[str, Any]) -> Plan:
    shared = {"work_uri": params.work_uri}
    served = {**shared, "timeout_s": params.timeout_s}

    def handed_on(step: type[Contract]) -> dict[str, Any]:
        return {name: given[name] for name in _handed_on(step)}

    return Plan(
        run_id=params.run_id,
        policy=params.policy_before,
        first=params.first_iteration,
        end=params.first_iteration + params.iterations,
        max_staleness=params.max_staleness,
        stop_at_reward=params.stop_at_reward,
        checkpoint_name=params.checkpoint_name,
        rollout=handed_on(RolloutParams) | served,
        feedback=handed_on(FeedbackParams) | shared,
        update=handed_on(UpdateParams) | served | {"run_id": params.run_id},
    )


def _metrics(params: LoopParams, done: list[Iteration]) -> Metrics:
    metrics = {"iterations": float(len(done))}
    if done:
        rewards = [each.mean_reward for each in done]
        metrics |= {
            "resumed_iterations": float(sum(each.resumed for each in done)),
            "first_reward": rewards[0],
            "last_reward": rewards[-1],
            "best_reward": max(rewards),
            "max_staleness": max(each.staleness for each in done),
            "reached": float(rewards[-1] >= params.stop_at_reward),
        }
    return metrics


STEP = Step(
    name="train_loop",
    summary="Many iterations of rollout, feedback and update in one process.",
    params=TrainLoopParams,
    inputs=NoInputs,
    outputs=TrainLoopOutputs,
    run=run,
)
