"""What a user's DeepSpeed configuration means for the trainer.

The user says how state is partitioned over the ranks, and tunes communication. What a batch is,
the optimizer's settings, precision and clipping come with the requests or from models.yaml:
a file that says otherwise is refused, since it would not be honoured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_Table = Mapping[str, Callable[[object], str | None]]
"""Per key: why a value is refused, None for a value that is served."""

_AUTO = "auto"
_ZERO = "zero_optimization"


@dataclass(frozen=True)
class DeepSpeedPlan:
    """ZeRO stages of adapters and base, and tuning that DeepSpeed gets as it is.

    `adapter_zero` and `base_zero` are `zero_optimization` sections; `base_zero` is None where
    each rank holds the whole base model.
    """

    adapter_stage: Literal[0, 1] = 0
    adapter_zero: Mapping[str, Any] = field(default_factory=lambda: {"stage": 0})
    base_zero: Mapping[str, Any] | None = None


def read_plan(config: Mapping[str, Any]) -> DeepSpeedPlan:
    """What a DeepSpeed configuration asks for.

    Raises:
        ValueError: it asks for something that the trainer does not do; the message names the
            key, the reason, and what to use instead.
    """
    for key, value in config.items():
        if key != _ZERO:
            _check(key, key, value, _TOP_LEVEL)
    zero = config.get(_ZERO, {})
    if not isinstance(zero, Mapping):
        raise ValueError(f"{_ZERO} must be a mapping, not {zero!r}")  # noqa: TRY004  # one kind
    stage = _stage(zero.get("stage", 0))
    for key, value in zero.items():
        if key != "stage":
            _check(f"{_ZERO}.{key}", key, value, {**_ZERO_ANY, **_ZERO3})
    if stage != 3 and _device_of(zero.get("offload_param")) != "none":
        raise ValueError(
            f"{_ZERO}.offload_param needs stage 3: at stage {stage} each rank holds the base model"
        )
    tuning = {key: value for key, value in zero.items() if value != _AUTO}
    # The gradient is one tensor, reduced at the step: there is no backward to overlap with.
    adapter = {
        **{key: value for key, value in tuning.items() if key in _FOR_ADAPTERS},
        "overlap_comm": False,
        "contiguous_gradients": False,
    }
    if stage == 1:
        # The optimizer measures the norm of the gradient itself.
        return DeepSpeedPlan(1, {**adapter, "compute_grad_norm": False, "stage": 1}, None)
    adapter["stage"] = 0
    if stage == 0:
        return DeepSpeedPlan(0, adapter, None)
    base = {key: value for key, value in tuning.items() if key in _FOR_BASE}
    # Without it, autograd would hold on to every weight that was gathered in a forward pass.
    return DeepSpeedPlan(0, adapter, {**base, "memory_efficient_linear": True, "stage": 3})


def _stage(value: object) -> int:
    if value == 2:
        raise ValueError(
            f"{_ZERO}.stage 2 is not served: it partitions gradients by hooks of DeepSpeed's own "
            "backward, which the trainer does not run. Use 1 (optimizer state partitioned)"
        )
    # True == 1, but no stage.
    if isinstance(value, bool) or value not in (0, 1, 3):
        raise ValueError(
            f"{_ZERO}.stage {value!r} must be 0, 1 (optimizer state of the adapters partitioned) "
            "or 3 (base model partitioned)"
        )
    assert isinstance(value, int)
    return value


def _check(path: str, key: str, value: object, table: _Table) -> None:
    if key not in table:
        raise ValueError(f"unknown key {path}: neither DeepSpeed 0.19 nor the trainer has it")
    if value == _AUTO:
        return  # the placeholder of Hugging Face's Trainer: ours to decide
    reason = table[key](value)
    if reason is not None:
        shown = "" if isinstance(value, Mapping) else f" {value!r}"
        raise ValueError(f"{path}{shown} {reason}")


def _ok(value: object) -> str | None:  # noqa: ARG001  # of the shape of all checks
    return None


def _number(value: object) -> str | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return None if good else "must be a number, 0 or more"


def _flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _only(*allowed: object, instead: str) -> Callable[[object], str | None]:
    """A key whose other values would not be honoured."""

    def check(value: object) -> str | None:
        same = any(value == one and type(value) is type(one) for one in allowed)
        return None if same else f"is not served: {instead}"

    return check


def _off(instead: str) -> Callable[[object], str | None]:
    """A section that may only be there to say that it is off."""

    def check(value: object) -> str | None:
        off = value is None or value is False
        if isinstance(value, Mapping):
            off = not value or value.get("enabled", True) in (False, _AUTO)
        return None if off else f"is not served: {instead}"

    return check


def _device_of(value: object) -> object:
    return value.get("device", "none") if isinstance(value, Mapping) else "none"


_OFFLOAD_KEYS = frozenset(
    {"device", "pin_memory", "buffer_count", "buffer_size", "max_in_cpu", "nvme_path"}
)


def _offload_param(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return "must be a mapping with the key device"
    unknown = sorted(set(value) - _OFFLOAD_KEYS)
    if unknown:
        return f"has unknown keys: {', '.join(unknown)}"
    device = _device_of(value)
    if device == "nvme":
        return (
            "device 'nvme' is not served: it needs an operator that DeepSpeed compiles, and the "
            "service compiles nothing. Use device 'cpu'"
        )
    return None if device in ("none", "cpu") else f"device {device!r} must be 'none' or 'cpu'"


def _offload_optimizer(value: object) -> str | None:
    if value is None or _device_of(value) == "none":
        return None
    return (
        "is not served: the optimizer's state is that of LoRA weights, and idle training runs "
        "leave the device by themselves (trainer.max_resident_adapters)"
    )


_BATCH = (
    "clients decide what a batch is, by forward_backward and optim_step; "
    "trainer.micro_batch_tokens bounds one pass"
)
_PRECISION = "supported_models[].dtype is the base model's type; adapters are float32"
_STEP = "Adam's settings come with every optim_step"
_MONITOR = "leave it out"

_TOP_LEVEL: _Table = {
    "train_batch_size": _only(instead=_BATCH),
    "train_micro_batch_size_per_gpu": _only(instead=_BATCH),
    "gradient_accumulation_steps": _only(1, instead=_BATCH),
    "managed_gradient_accumulation": _only(False, instead=_BATCH),
    "gradient_clipping": _only(
        0, 0.0, instead="grad_clip_norm of an optim_step clips; a default here would hide in it"
    ),
    "optimizer": _off(_STEP),
    "scheduler": _off(_STEP + ", learning_rate among them"),
    "fp16": _off(_PRECISION),
    "bf16": _off(_PRECISION),
    "bfloat16": _off(_PRECISION),
    "amp": _off(_PRECISION),
    "torch_autocast": _off(_PRECISION),
    "data_types": _off(_PRECISION),
    "communication_data_type": _only(
        None, "fp32", instead="gradients of all ranks are summed in float32"
    ),
    "gradient_allreduce_op": _only("sum", instead="losses are sums, and so are gradients"),
    "prescale_gradients": _only(False, instead="gradients are sums: nothing is scaled"),
    "gradient_predivide_factor": _only(1, 1.0, instead="gradients are sums: nothing is scaled"),
    "sparse_gradients": _only(False, instead="LoRA's gradients are dense"),
    "activation_checkpointing": _off("the trainer recomputes activations where memory asks for it"),
    "aio": _off("nothing is offloaded to NVMe"),
    "tensor_parallel": _off("the trainer's ranks are data parallel"),
    "sequence_parallel_size": _only(1, instead="the trainer's ranks are data parallel"),
    "pipeline": _off("the trainer's ranks are data parallel"),
    "checkpoint": _off("checkpoints are PEFT folders in the object store"),
    "elasticity": _off("trainer.ranks says how many ranks there are"),
    "autotuning": _off("there is no script of yours to run"),
    "compile": _off("the trainer runs eagerly"),
    "hybrid_engine": _off("sampling has processes of its own"),
    "compression_training": _off("adapters are trained as they are"),
    "data_efficiency": _off(_BATCH),
    "curriculum_learning": _off(_BATCH),
    "progressive_layer_drop": _off("adapters are trained as they are"),
    "eigenvalue": _off("adapters are trained as they are"),
    "flops_profiler": _off(_MONITOR),
    "comms_logger": _off(_MONITOR),
    "tensorboard": _off(_MONITOR),
    "wandb": _off(_MONITOR),
    "csv_monitor": _off(_MONITOR),
    "comet": _off(_MONITOR),
    # Without effect: they choose what DeepSpeed prints of a loop that it does not run here, or
    # which optimizers it lets in.
    "steps_per_print": _ok,
    "wall_clock_breakdown": _flag,
    "memory_breakdown": _flag,
    "dump_state": _flag,
    "zero_allow_untested_optimizer": _flag,
    "zero_force_ds_cpu_optimizer": _flag,
}
_QUANTIZED = "weights and gradients travel as they are, so that results don't depend on the ranks"
_ZERO_ANY: _Table = {
    "reduce_bucket_size": _number,
    "allgather_bucket_size": _number,
    "allgather_partitions": _flag,
    "reduce_scatter": _flag,
    "use_multi_rank_bucket_allreduce": _flag,
    "overlap_comm": _flag,
    # Without effect: an adapter is one tensor, and only its optimizer's state is partitioned.
    "contiguous_gradients": _flag,
    "round_robin_gradients": _flag,
    "ignore_unused_parameters": _flag,
    "sub_group_size": _number,
    "compute_grad_norm": _flag,
    "gather_16bit_weights_on_model_save": _flag,
    "stage3_gather_16bit_weights_on_model_save": _flag,
    "stage3_gather_fp16_weights_on_model_save": _flag,
    "memory_efficient_linear": _flag,
    "offload_optimizer": _offload_optimizer,
    "cpu_offload": _only(False, instead="offload_optimizer says why"),
    "cpu_offload_param": _only(False, instead="use offload_param: {device: cpu}"),
    "legacy_stage1": _only(False, instead="DeepSpeed has removed it"),
    "elastic_checkpoint": _only(False, instead="checkpoints fit any number of ranks already"),
    "zero_hpz_partition_size": _only(1, instead="the base model is partitioned over all ranks"),
    "zero_quantized_weights": _only(False, instead=_QUANTIZED),
    "zero_quantized_nontrainable_weights": _only(False, instead=_QUANTIZED),
    "zero_quantized_gradients": _only(False, instead=_QUANTIZED),
    "zenflow": _off("the trainer steps each adapter at its own time"),
    "mics_shard_size": _only(-1, instead="the base model is partitioned over all ranks"),
    "leaf_module": _off("LoRA layers sit inside the modules that it would treat as one"),
}
_ZERO3: _Table = {
    "offload_param": _offload_param,
    "stage3_prefetch_bucket_size": _number,
    "stage3_param_persistence_threshold": _number,
    "stage3_model_persistence_threshold": _number,
    "stage3_max_live_parameters": _number,
    "stage3_max_reuse_distance": _number,
    "stage3_use_all_reduce_for_fetch_params": _flag,
    "stage3_allgather_sequential": _flag,
    "stage3_module_granularity_threshold": _only(
        0, instead="LoRA layers sit inside the modules that it would treat as one"
    ),
}
_FOR_ADAPTERS = frozenset(
    {
        "reduce_bucket_size",
        "allgather_bucket_size",
        "allgather_partitions",
        "reduce_scatter",
        "use_multi_rank_bucket_allreduce",
    }
)
_FOR_BASE = frozenset({*_ZERO3, "overlap_comm"})
