"""KFP faces of the step `rescore`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001, B006  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def rescore(
    batch: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    mean_reward: dsl.OutputPath(float),  # type: ignore[valid-type]
    old_batch: dsl.Input[dsl.Dataset] = None,
    trajectories: dsl.Input[dsl.Dataset] = None,
    reward: str = "env",
    reward_args: str = "{}",
    advantage: str = "grpo_no_std",
    drop_truncated: bool = False,
    credit: str = "episode",
    gamma: float = 1.0,
    shaping: str = "{}",
    trajectories_uris: list[str] = [],
    iteration: int = 0,
    work_uri: str = "",
) -> dsl.ContainerSpec:
    """Judge stored trajectories by another reward, without sampling again."""
    return step_container("rescore")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def rescore_lightweight(
    batch: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    old_batch: dsl.Input[dsl.Dataset] = None,
    trajectories: dsl.Input[dsl.Dataset] = None,
    reward: str = "env",
    reward_args: str = "{}",
    advantage: str = "grpo_no_std",
    drop_truncated: bool = False,
    credit: str = "episode",
    gamma: float = 1.0,
    shaping: str = "{}",
    trajectories_uris: list[str] = [],
    iteration: int = 0,
    work_uri: str = "",
) -> NamedTuple("Outputs", [("mean_reward", float)]):  # type: ignore[valid-type]
    """Judge stored trajectories by another reward, without sampling again."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("rescore", arguments)
