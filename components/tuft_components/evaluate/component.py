"""KFP faces of the step `evaluate`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def evaluate(
    policy: str,
    metrics: dsl.Output[dsl.Metrics],
    mean_reward: dsl.OutputPath(float),  # type: ignore[valid-type]
    uri: dsl.OutputPath(str),  # type: ignore[valid-type]
    env: str = "second_word",
    env_args: str = "{}",
    reward: str = "env",
    reward_args: str = "{}",
    episodes: int = 64,
    split: str = "eval",
    seed: int = 0,
    max_tokens: int = 16,
    max_turns: int = 32,
    call_timeout_s: float = 120.0,
    max_failed: float = 0.5,
    temperature: float = 1.0,
    iteration: int = 0,
    concurrency: int = 256,
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> dsl.ContainerSpec:
    """The mean reward of a policy on tasks that it was not trained on."""
    return step_container("evaluate")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def evaluate_lightweight(
    policy: str,
    metrics: dsl.Output[dsl.Metrics],
    env: str = "second_word",
    env_args: str = "{}",
    reward: str = "env",
    reward_args: str = "{}",
    episodes: int = 64,
    split: str = "eval",
    seed: int = 0,
    max_tokens: int = 16,
    max_turns: int = 32,
    call_timeout_s: float = 120.0,
    max_failed: float = 0.5,
    temperature: float = 1.0,
    iteration: int = 0,
    concurrency: int = 256,
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> NamedTuple("Outputs", [("mean_reward", float), ("uri", str)]):  # type: ignore[valid-type]
    """The mean reward of a policy on tasks that it was not trained on."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("evaluate", arguments)
