"""rollout: let a policy act in an environment and record every transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tuft_components.envs import make_environment
from tuft_components.episodes import EpisodeSet, Limits
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.policies import Sampling, play_with_service
from tuft_components.replay.choosing import Replay, choose
from tuft_components.replay.store import Bounds
from tuft_components.steps import (
    Contract,
    Dataset,
    JsonObject,
    Locations,
    Metrics,
    NoInputs,
    ReplayRatio,
    Step,
    TimeoutS,
    WorkUri,
)
from tuft_components.trajectories import Transition, write_trajectories


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
    shard: int = Field(
        default=0, ge=0, description="Which part of the groups to play: those g, g % shards."
    )
    shards: int = Field(default=1, ge=1, description="Parts that the groups are played in.")
    seed: int = Field(default=0, ge=0, description="Of the tasks and the samples.")
    max_tokens: int = Field(default=16, ge=1, description="New tokens of a turn, at most.")
    max_turns: int = Field(default=32, ge=1, description="Turns of an episode, at most.")
    call_timeout_s: float = Field(
        default=120.0, gt=0, description="Seconds for each answer of the environment."
    )
    token_budget: int = Field(
        default=0, ge=0, description="New tokens of all episodes together, at most; 0: any number."
    )
    time_budget_s: float = Field(
        default=0.0, ge=0, description="Seconds for all episodes together; 0: any time."
    )
    max_failed: float = Field(
        default=0.5, ge=0, le=1, description="Share of episodes in which the environment may fail."
    )
    temperature: float = Field(default=1.0, ge=0, description="Of the sampling.")
    split: str = Field(default="train", description="Which of the environment's tasks.")
    concurrency: int = Field(
        default=256, ge=1, description="Episodes played at once, at most; groups are played whole."
    )
    replay_ratio: ReplayRatio = 0.0
    replay_form: Literal["fresh", "hint"] = Field(
        default="fresh",
        description="How a failed task is played again: fresh, or hint: with the failed attempt "
        "shown before it.",
    )
    replay_solved: int = Field(
        default=2, ge=1, description="A task leaves the store when it was solved so often in a row."
    )
    replay_tries: int = Field(
        default=16, ge=1, description="A task leaves the store after so many replays in vain."
    )
    replay_size: int = Field(
        default=256, ge=1, description="Tasks in the store, at most: those that failed most."
    )
    replay_max_age: int = Field(
        default=64, ge=1, description="Iterations that a task stays without being played."
    )
    work_uri: WorkUri = ""
    timeout_s: TimeoutS = 600.0


class RolloutOutputs(Contract):
    trajectories: Dataset = Field(description="Parquet of schema tuft.trajectories/3.")
    uri: str = Field(
        description="Prefix below work_uri with the same trajectories, for `trajectories_uris` "
        "of feedback. Empty without work_uri."
    )
    metrics: Metrics = Field(description="Groups, episodes, lengths and the environment's reward.")


def run(params: RolloutParams, inputs: NoInputs, locations: Locations) -> RolloutOutputs:
    del inputs
    # First of all, so that an environment that imports torch finds it (see `processes`).
    environment = make_environment(params.env, params.env_args)
    sampling = Sampling(params.max_tokens, params.temperature, params.timeout_s)
    episodes = episodes_of(params)
    chosen = choose(replay_of(params), episodes)
    played = play_with_service(
        environment,
        replace(episodes, again=chosen.again),
        sampling,
        kept_of(params, chosen.decides()),
    )
    metadata = {"env": params.env, "split": params.split, "policy": params.policy}
    return RolloutOutputs(
        trajectories=write_trajectories(locations["trajectories"], played.transitions, metadata),
        uri=played.uri,
        metrics={
            **_metrics(played.transitions),
            **played.metrics(),
            **(chosen.metrics() if params.replay_ratio else {}),
        },
    )


def episodes_of(params: RolloutParams) -> EpisodeSet:
    """Raises:
    BadConfiguration: there is no such shard.
    """
    return EpisodeSet(
        env=params.env,
        env_args=params.env_args,
        split=params.split,
        seed=params.seed,
        first_index=params.iteration * params.groups,
        groups=params.groups,
        group_size=params.group_size,
        iteration=params.iteration,
        policy_name=params.policy,
        policy_version=params.policy_version if params.policy_version >= 0 else None,
        limits=limits_of(params),
        shard=params.shard,
        shards=params.shards,
        concurrency=params.concurrency,
    )


def limits_of(params: RolloutParams) -> Limits:
    names = ("max_turns", "call_timeout_s", "token_budget", "time_budget_s", "max_failed")
    return Limits(**params.model_dump(include=set(names)))


def replay_of(params: RolloutParams) -> Replay:
    return Replay(
        params.work_uri,
        params.replay_ratio,
        params.replay_form,
        Bounds(
            solved=params.replay_solved,
            tries=params.replay_tries,
            size=params.replay_size,
            max_age=params.replay_max_age,
        ),
    )


def kept_of(
    params: RolloutParams, replayed: Mapping[str, Any] | None = None
) -> KeptEpisodes | None:
    """Where its groups are kept; None without a work_uri. `replayed` is what was chosen."""
    if not params.work_uri:
        return None
    episodes = episodes_of(params)
    # Where and how fast it is played decides nothing; that `groups` decides the tasks is in
    # the number of the first one, so that with iteration 0 a longer rollout takes a shorter one's.
    other = {"work_uri", "timeout_s", "concurrency", "shard", "shards", "groups"}
    other |= {"call_timeout_s", "token_budget", "time_budget_s", "max_failed"}
    # What is replayed counts, not why.
    other |= {name for name in RolloutParams.model_fields if name.startswith("replay_")}
    return KeptEpisodes(
        params.work_uri,
        f"rollout-{params.iteration:06d}",
        shard=params.shard,
        shards=params.shards,
        decided_by={
            **params.model_dump(exclude=other),
            "policy_version": episodes.version(),
            "first_index": episodes.first_index,
            **(replayed or {}),
        },
    )


def _metrics(transitions: Sequence[Transition]) -> Metrics:
    episodes = {(t.group_id, t.sample) for t in transitions}
    return {
        "groups": float(len({group for group, _ in episodes})),
        "episodes": float(len(episodes)),
        "mean_env_reward": sum(t.env_reward for t in transitions) / len(episodes),
        "mean_turns": len(transitions) / len(episodes),
        "mean_completion_tokens": float(np.mean([len(t.completion_tokens) for t in transitions])),
        "truncated": float(np.mean([t.stop_reason == "length" for t in transitions])),
    }


STEP = Step(
    name="rollout",
    summary="Let a policy act in an environment and record every transition.",
    params=RolloutParams,
    inputs=NoInputs,
    outputs=RolloutOutputs,
    run=run,
)
