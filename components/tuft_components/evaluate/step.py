"""evaluate: the mean reward of a policy on tasks that it was not trained on."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tuft_components.envs import make_environment
from tuft_components.episodes import EpisodeSet, Limits
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.policies import Sampling, play_with_service
from tuft_components.rewards import Keeping, judged, metrics_of, reward_function
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
from tuft_components.trajectories import group_transitions, without_failed


class EvaluateParams(Contract):
    policy: str = Field(min_length=1, description="tinker:// path of a policy, or a base model.")
    env: str = Field(default="second_word", description="Environment: a name, or module:factory.")
    env_args: JsonObject = Field(default={}, description="JSON object for the environment.")
    reward: str = Field(default="env", description="Reward: a name, or module:attribute.")
    reward_args: JsonObject = Field(default={}, description="JSON object for the reward.")
    episodes: int = Field(default=64, ge=1, description="Episodes, each of another task.")
    split: str = Field(default="eval", description="Which of the environment's tasks.")
    seed: int = Field(default=0, ge=0, description="Of the tasks and the samples.")
    max_tokens: int = Field(default=16, ge=1, description="New tokens of a turn, at most.")
    max_turns: int = Field(default=32, ge=1, description="Turns of an episode, at most.")
    call_timeout_s: float = Field(
        default=120.0, gt=0, description="Seconds for each answer of the environment."
    )
    max_failed: float = Field(
        default=0.5, ge=0, le=1, description="Share of episodes in which the environment may fail."
    )
    temperature: float = Field(default=1.0, ge=0, description="Of the sampling.")
    iteration: int = Field(default=0, ge=0, description="Number of updates behind the policy.")
    concurrency: int = Field(default=256, ge=1, description="Episodes played at once, at most.")
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 600.0


class EvaluateOutputs(Contract):
    mean_reward: float = Field(description="Mean reward of the episodes.")
    uri: str = Field(
        description="Prefix below work_uri with the trajectories. Empty without work_uri."
    )
    metrics: Metrics = Field(description="mean_reward, its standard error, and episodes.")


def run(params: EvaluateParams, inputs: NoInputs, locations: Locations) -> EvaluateOutputs:
    del inputs, locations
    # First of all, so that what imports torch finds it (see `processes`); a wrong name or argument
    # costs no sampling.
    reward = reward_function(params.reward, params.reward_args)
    environment = make_environment(params.env, params.env_args)
    sampling = Sampling(params.max_tokens, params.temperature, params.timeout_s)
    played = play_with_service(environment, episodes_of(params), sampling, kept_of(params))
    where = f"evaluation of {params.policy}"
    trajectories = without_failed(where, group_transitions(where, played.transitions))
    keeping = Keeping(params.work_uri, f"evaluate-{params.iteration:06d}")
    rewards = judged(params.reward, reward, trajectories, keeping)
    spread = float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0
    metrics = {
        "mean_reward": float(rewards.mean()),
        "mean_reward_stderr": spread / float(np.sqrt(len(rewards))),
        "episodes": float(len(rewards)),
        "failed": played.metrics()["failed"],
        "episodes_kept": float(played.kept_groups),
        **metrics_of(params.reward, reward),
    }
    return EvaluateOutputs(mean_reward=metrics["mean_reward"], uri=played.uri, metrics=metrics)


def episodes_of(params: EvaluateParams) -> EpisodeSet:
    return EpisodeSet(
        env=params.env,
        env_args=params.env_args,
        split=params.split,
        seed=params.seed,
        first_index=0,
        groups=params.episodes,
        group_size=1,
        iteration=params.iteration,
        policy_name=params.policy,
        limits=Limits(
            max_turns=params.max_turns,
            call_timeout_s=params.call_timeout_s,
            max_failed=params.max_failed,
        ),
        sample_round=0,  # so that evaluations of all iterations differ by their policies only
        concurrency=params.concurrency,
    )


def kept_of(params: EvaluateParams) -> KeptEpisodes | None:
    """Where its episodes are kept; None without a work_uri."""
    if not params.work_uri:
        return None
    other = {"work_uri", "timeout_s", "concurrency", "episodes", "reward", "reward_args"}
    other |= {"call_timeout_s", "max_failed"}
    return KeptEpisodes(
        params.work_uri,
        f"evaluate-{params.iteration:06d}",
        shard=0,
        shards=1,
        decided_by=params.model_dump(exclude=other),
    )


STEP = Step(
    name="evaluate",
    summary="The mean reward of a policy on tasks that it was not trained on.",
    params=EvaluateParams,
    inputs=NoInputs,
    outputs=EvaluateOutputs,
    run=run,
)
