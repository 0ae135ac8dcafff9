"""KFP faces of the step `preflight`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def preflight(
    report: dsl.Output[dsl.Markdown],
    base_model: str = "",
    policy: str = "",
    env: str = "",
    env_args: str = "{}",
    split: str = "train",
    reward: str = "",
    reward_args: str = "{}",
    work_uri: str = "",
    wait_s: float = 30.0,
) -> dsl.ContainerSpec:
    """Say at once what would stop a pipeline later: service, models, storage, environment."""
    return step_container("preflight")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def preflight_lightweight(
    report: dsl.Output[dsl.Markdown],
    base_model: str = "",
    policy: str = "",
    env: str = "",
    env_args: str = "{}",
    split: str = "train",
    reward: str = "",
    reward_args: str = "{}",
    work_uri: str = "",
    wait_s: float = 30.0,
) -> None:
    """Say at once what would stop a pipeline later: service, models, storage, environment."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    run_lightweight("preflight", arguments)
