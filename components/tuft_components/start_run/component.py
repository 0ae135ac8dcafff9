"""KFP faces of the step `start_run`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def start_run(
    run_id: dsl.OutputPath(str),  # type: ignore[valid-type]
    policy: dsl.OutputPath(str),  # type: ignore[valid-type]
    base_model: str = "",
    lora_rank: int = 8,
    seed: int = 0,
    train_attn: bool = True,
    train_mlp: bool = True,
    train_unembed: bool = True,
    name: str = "",
    step_key: str = "",
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> dsl.ContainerSpec:
    """Start a training run on a base model and publish its policy before any update."""
    return step_container("start_run")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def start_run_lightweight(
    base_model: str = "",
    lora_rank: int = 8,
    seed: int = 0,
    train_attn: bool = True,
    train_mlp: bool = True,
    train_unembed: bool = True,
    name: str = "",
    step_key: str = "",
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> NamedTuple("Outputs", [("run_id", str), ("policy", str)]):  # type: ignore[valid-type]
    """Start a training run on a base model and publish its policy before any update."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("start_run", arguments)
