"""KFP faces of the step `sft`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def sft(
    run_id: str,
    dataset_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    policy: dsl.OutputPath(str),  # type: ignore[valid-type]
    checkpoint: dsl.OutputPath(str),  # type: ignore[valid-type]
    eval_uri: str = "",
    eval_rows: int = 0,
    eval_every: int = 0,
    epochs: int = 1,
    batch_size: int = 16,
    max_steps: int = 0,
    max_rows: int = 0,
    max_length: int = 0,
    too_long: str = "refuse",
    bad_rows: str = "refuse",
    turns: str = "all",
    append_eos: bool = True,
    template_args: str = "{}",
    reduction: str = "mean",
    learning_rate: float = 0.0001,
    schedule: str = "linear",
    warmup_steps: int = 0,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    grad_clip_norm: float = 0.0,
    seed: int = 0,
    policy_name: str = "",
    policy_ttl_seconds: int = 0,
    checkpoint_name: str = "",
    step_key: str = "sft",
    work_uri: str = "",
    timeout_s: float = 3600.0,
) -> dsl.ContainerSpec:
    """Supervised fine-tuning of a training run on a dataset, each step exactly once."""
    return step_container("sft")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def sft_lightweight(
    run_id: str,
    dataset_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    eval_uri: str = "",
    eval_rows: int = 0,
    eval_every: int = 0,
    epochs: int = 1,
    batch_size: int = 16,
    max_steps: int = 0,
    max_rows: int = 0,
    max_length: int = 0,
    too_long: str = "refuse",
    bad_rows: str = "refuse",
    turns: str = "all",
    append_eos: bool = True,
    template_args: str = "{}",
    reduction: str = "mean",
    learning_rate: float = 0.0001,
    schedule: str = "linear",
    warmup_steps: int = 0,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
    grad_clip_norm: float = 0.0,
    seed: int = 0,
    policy_name: str = "",
    policy_ttl_seconds: int = 0,
    checkpoint_name: str = "",
    step_key: str = "sft",
    work_uri: str = "",
    timeout_s: float = 3600.0,
) -> NamedTuple("Outputs", [("policy", str), ("checkpoint", str)]):  # type: ignore[valid-type]
    """Supervised fine-tuning of a training run on a dataset, each step exactly once."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("sft", arguments)
