"""KFP faces of the step `train_loop`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def train_loop(
    run_id: str,
    policy_before: str,
    history: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    policy: dsl.OutputPath(str),  # type: ignore[valid-type]
    checkpoint: dsl.OutputPath(str),  # type: ignore[valid-type]
    iterations_done: dsl.OutputPath(int),  # type: ignore[valid-type]
    last_reward: dsl.OutputPath(float),  # type: ignore[valid-type]
    iterations: int = 8,
    first_iteration: int = 0,
    max_staleness: int = 0,
    stop_at_reward: float = 1000000000.0,
    reward_before: float = -1000000000.0,
    checkpoint_before: str = "",
    checkpoint_name: str = "",
    work_uri: str = "",
    timeout_s: float = 3600.0,
    env: str = "second_word",
    env_args: str = "{}",
    groups: int = 8,
    group_size: int = 8,
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
    reward: str = "env",
    reward_args: str = "{}",
    advantage: str = "grpo_no_std",
    drop_truncated: bool = False,
    credit: str = "episode",
    gamma: float = 1.0,
    shaping: str = "{}",
    replay_below: float = 1.0,
    learning_rate: float = 0.0001,
    loss_fn: str = "importance_sampling",
    loss_config: str = "{}",
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    grad_clip_norm: float = 0.0,
    policy_ttl_seconds: int = 0,
) -> dsl.ContainerSpec:
    """Many iterations of rollout, feedback and update in one process."""
    return step_container("train_loop")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def train_loop_lightweight(
    run_id: str,
    policy_before: str,
    history: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    iterations: int = 8,
    first_iteration: int = 0,
    max_staleness: int = 0,
    stop_at_reward: float = 1000000000.0,
    reward_before: float = -1000000000.0,
    checkpoint_before: str = "",
    checkpoint_name: str = "",
    work_uri: str = "",
    timeout_s: float = 3600.0,
    env: str = "second_word",
    env_args: str = "{}",
    groups: int = 8,
    group_size: int = 8,
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
    reward: str = "env",
    reward_args: str = "{}",
    advantage: str = "grpo_no_std",
    drop_truncated: bool = False,
    credit: str = "episode",
    gamma: float = 1.0,
    shaping: str = "{}",
    replay_below: float = 1.0,
    learning_rate: float = 0.0001,
    loss_fn: str = "importance_sampling",
    loss_config: str = "{}",
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    grad_clip_norm: float = 0.0,
    policy_ttl_seconds: int = 0,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("policy", str), ("checkpoint", str), ("iterations_done", int), ("last_reward", float)],
):
    """Many iterations of rollout, feedback and update in one process."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("train_loop", arguments)
