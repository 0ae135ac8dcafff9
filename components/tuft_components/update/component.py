"""KFP faces of the step `update`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def update(
    run_id: str,
    batch: dsl.Input[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    policy: dsl.OutputPath(str),  # type: ignore[valid-type]
    checkpoint: dsl.OutputPath(str),  # type: ignore[valid-type]
    learning_rate: float = 0.0001,
    loss_fn: str = "importance_sampling",
    loss_config: str = "{}",
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    grad_clip_norm: float = 0.0,
    iteration: int = 0,
    policy_name: str = "",
    policy_ttl_seconds: int = 0,
    checkpoint_name: str = "",
    step_key: str = "",
    work_uri: str = "",
    timeout_s: float = 3600.0,
) -> dsl.ContainerSpec:
    """One optimizer step of a training run on a batch, exactly once."""
    return step_container("update")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def update_lightweight(
    run_id: str,
    batch: dsl.Input[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    learning_rate: float = 0.0001,
    loss_fn: str = "importance_sampling",
    loss_config: str = "{}",
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    grad_clip_norm: float = 0.0,
    iteration: int = 0,
    policy_name: str = "",
    policy_ttl_seconds: int = 0,
    checkpoint_name: str = "",
    step_key: str = "",
    work_uri: str = "",
    timeout_s: float = 3600.0,
) -> NamedTuple("Outputs", [("policy", str), ("checkpoint", str)]):  # type: ignore[valid-type]
    """One optimizer step of a training run on a batch, exactly once."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("update", arguments)
