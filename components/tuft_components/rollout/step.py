"""rollout: let a policy act in an environment and record every transition."""

from __future__ import annotations

from pydantic import Field

from tuft_components.envs import make_environment
from tuft_components.episodes import EpisodeSet
from tuft_components.policies import play_with_service
from tuft_components.steps import (
    Contract,
    Dataset,
    JsonObject,
    Locations,
    NoInputs,
    Step,
    TimeoutS,
    WorkUri,
)
from tuft_components.trajectories import write_trajectories


class RolloutParams(Contract):
    policy: str = Field(min_length=1, description="tinker:// path of a policy, or a base model.")
    env: str = Field(default="second_word", description="Environment: a name, or module:factory.")
    env_args: JsonObject = Field(default={}, description="JSON object for the environment.")
    groups: int = Field(default=8, ge=1, description="Tasks.")
    group_size: int = Field(default=8, ge=1, description="Episodes of each task.")
    iteration: int = Field(
        default=0, ge=0, description="Number of updates so far; each iteration has its own tasks."
    )
    policy_version: int = Field(
        default=-1,
        ge=-1,
        description="Number of updates behind the policy, where it is an older one; "
        "-1: the iteration.",
    )
    seed: int = Field(default=0, ge=0, description="Of the tasks and the samples.")
    max_tokens: int = Field(default=16, ge=1, description="New tokens of a turn, at most.")
    max_turns: int = Field(default=32, ge=1, description="Turns of an episode, at most.")
    temperature: float = Field(default=1.0, ge=0, description="Of the sampling.")
    split: str = Field(default="train", description="Which of the environment's tasks.")
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 600.0


class RolloutOutputs(Contract):
    trajectories: Dataset = Field(description="Parquet of schema tuft.trajectories/1.")


def run(params: RolloutParams, inputs: NoInputs, locations: Locations) -> RolloutOutputs:
    del inputs
    # First of all, so that an environment that imports torch finds it (see `processes`).
    environment = make_environment(params.env, params.env_args)
    transitions = play_with_service(
        environment,
        EpisodeSet(
            split=params.split,
            seed=params.seed,
            first_index=params.iteration * params.groups,
            groups=params.groups,
            group_size=params.group_size,
            iteration=params.iteration,
            policy_name=params.policy,
            max_turns=params.max_turns,
            policy_version=params.policy_version if params.policy_version >= 0 else None,
        ),
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        timeout_s=params.timeout_s,
    )
    metadata = {"env": params.env, "split": params.split, "policy": params.policy}
    return RolloutOutputs(
        trajectories=write_trajectories(locations["trajectories"], transitions, metadata)
    )


STEP = Step(
    name="rollout",
    summary="Let a policy act in an environment and record every transition.",
    params=RolloutParams,
    inputs=NoInputs,
    outputs=RolloutOutputs,
    run=run,
)
