"""evaluate: the mean reward of a policy on tasks that it was not trained on."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tuft_components.envs import make_environment
from tuft_components.episodes import EpisodeSet
from tuft_components.policies import play_with_service
from tuft_components.rewards import reward_function, rewards_of
from tuft_components.steps import (
    Contract,
    JsonObject,
    Locations,
    Metrics,
    NoInputs,
    Step,
    TimeoutS,
    WorkUri,
)
from tuft_components.trajectories import group_transitions


class EvaluateParams(Contract):
    policy: str = Field(min_length=1, description="tinker:// path of a policy, or a base model.")
    env: str = Field(default="second_word", description="Environment: a name, or module:factory.")
    env_args: JsonObject = Field(default={}, description="JSON object for the environment.")
    reward: str = Field(default="env", description="Reward: a name, or module:function.")
    episodes: int = Field(default=64, ge=1, description="Episodes, each of another task.")
    split: str = Field(default="eval", description="Which of the environment's tasks.")
    seed: int = Field(default=0, ge=0, description="Of the tasks and the samples.")
    max_tokens: int = Field(default=16, ge=1, description="New tokens of a turn, at most.")
    max_turns: int = Field(default=32, ge=1, description="Turns of an episode, at most.")
    temperature: float = Field(default=1.0, ge=0, description="Of the sampling.")
    iteration: int = Field(default=0, ge=0, description="Number of updates behind the policy.")
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 600.0


class EvaluateOutputs(Contract):
    mean_reward: float = Field(description="Mean reward of the episodes.")
    metrics: Metrics = Field(description="mean_reward, its standard error, and episodes.")


def run(params: EvaluateParams, inputs: NoInputs, locations: Locations) -> EvaluateOutputs:
    del inputs, locations
    reward_function(params.reward)  # a wrong name costs no sampling
    # First of all, so that an environment that imports torch finds it (see `processes`).
    environment = make_environment(params.env, params.env_args)
    transitions = play_with_service(
        environment,
        EpisodeSet(
            split=params.split,
            seed=params.seed,
            first_index=0,
            groups=params.episodes,
            group_size=1,
            iteration=0,
            policy_name=params.policy,
            max_turns=params.max_turns,
        ),
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        timeout_s=params.timeout_s,
    )
    trajectories = group_transitions(f"evaluation of {params.policy}", transitions)
    rewards = rewards_of(params.reward, trajectories)
    spread = float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0
    metrics = {
        "mean_reward": float(rewards.mean()),
        "mean_reward_stderr": spread / float(np.sqrt(len(rewards))),
        "episodes": float(len(rewards)),
    }
    return EvaluateOutputs(mean_reward=metrics["mean_reward"], metrics=metrics)


STEP = Step(
    name="evaluate",
    summary="The mean reward of a policy on tasks that it was not trained on.",
    params=EvaluateParams,
    inputs=NoInputs,
    outputs=EvaluateOutputs,
    run=run,
)
