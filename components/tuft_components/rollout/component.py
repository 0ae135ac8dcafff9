"""KFP faces of the step `rollout`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def rollout(
    policy: str,
    trajectories: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    uri: dsl.OutputPath(str),  # type: ignore[valid-type]
    env: str = "second_word",
    env_args: str = "{}",
    groups: int = 8,
    group_size: int = 8,
    iteration: int = 0,
    policy_version: int = -1,
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    max_tokens: int = 16,
    max_turns: int = 32,
    call_timeout_s: float = 120.0,
    token_budget: int = 0,
    time_budget_s: float = 0.0,
    max_failed: float = 0.5,
    temperature: float = 1.0,
    split: str = "train",
    concurrency: int = 256,
    replay_ratio: float = 0.0,
    replay_form: str = "fresh",
    replay_solved: int = 2,
    replay_tries: int = 16,
    replay_size: int = 256,
    replay_max_age: int = 64,
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> dsl.ContainerSpec:
    """Let a policy act in an environment and record every transition."""
    return step_container("rollout")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def rollout_lightweight(
    policy: str,
    trajectories: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    env: str = "second_word",
    env_args: str = "{}",
    groups: int = 8,
    group_size: int = 8,
    iteration: int = 0,
    policy_version: int = -1,
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    max_tokens: int = 16,
    max_turns: int = 32,
    call_timeout_s: float = 120.0,
    token_budget: int = 0,
    time_budget_s: float = 0.0,
    max_failed: float = 0.5,
    temperature: float = 1.0,
    split: str = "train",
    concurrency: int = 256,
    replay_ratio: float = 0.0,
    replay_form: str = "fresh",
    replay_solved: int = 2,
    replay_tries: int = 16,
    replay_size: int = 256,
    replay_max_age: int = 64,
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> NamedTuple("Outputs", [("uri", str)]):  # type: ignore[valid-type]
    """Let a policy act in an environment and record every transition."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("rollout", arguments)
