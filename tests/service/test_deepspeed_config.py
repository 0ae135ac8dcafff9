"""What a user's DeepSpeed configuration may say, and what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tuft.config import TrainerConfig
from tuft.deepspeed_config import read_plan

AS_TRAINER_WRITES_IT = {
    "fp16": {"enabled": "auto"},
    "bf16": {"enabled": False},
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}


@pytest.mark.parametrize(
    ("zero", "adapters", "base"),
    [
        ({}, 0, None),
        ({"stage": 0}, 0, None),
        ({"stage": 1, "reduce_bucket_size": 5e8, "overlap_comm": True}, 1, None),
        ({"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": None}, 0, 3),
        ({"stage": 3, "stage3_max_live_parameters": 1e8, "sub_group_size": 1e9}, 0, 3),
    ],
)
def test_stages(zero: dict[str, Any], adapters: int, base: int | None) -> None:
    plan = read_plan({**AS_TRAINER_WRITES_IT, "zero_optimization": zero})
    assert plan.adapter_stage == plan.adapter_zero["stage"] == adapters
    assert (plan.base_zero or {}).get("stage") == base
    # A gradient that is reduced at the step has no backward to overlap with.
    assert plan.adapter_zero["overlap_comm"] is False


def test_tuning_is_passed_on_to_what_it_tunes() -> None:
    zero = {
        "stage": 3,
        "overlap_comm": True,
        "allgather_bucket_size": 1000,
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": 10,
    }
    plan = read_plan({"zero_optimization": zero})
    assert plan.base_zero == {
        "stage": 3,
        "overlap_comm": True,
        "stage3_param_persistence_threshold": 10,
        "memory_efficient_linear": True,
    }
    assert plan.adapter_zero["allgather_bucket_size"] == 1000


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"zero_optimization": {"stage": 2}}, ["zero_optimization.stage 2", "Use 1"]),
        ({"zero_optimization": {"stage": 4}}, ["zero_optimization.stage 4", "0, 1"]),
        ({"zero_optimization": {"stage": True}}, ["zero_optimization.stage True"]),
        ({"zero_optimization": 3}, ["zero_optimization must be a mapping"]),
        ({"zero_optimization": {"stages": 1}}, ["unknown key zero_optimization.stages"]),
        (
            {"zero_optimization": {"stage": 1, "offload_param": {"device": "cpu"}}},
            ["zero_optimization.offload_param needs stage 3"],
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            ["zero_optimization.offload_param", "compiles", "'cpu'"],
        ),
        (
            {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}},
            ["zero_optimization.offload_optimizer", "trainer.max_resident_adapters"],
        ),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            ["zero_optimization.zero_quantized_weights True is not served"],
        ),
        (
            {"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "many"}},
            ["stage3_max_live_parameters 'many' must be a number"],
        ),
        ({"fp16": {"enabled": True}}, ["fp16 is not served", "dtype"]),
        ({"bf16": {"enabled": True}}, ["bf16 is not served", "dtype"]),
        ({"amp": {"opt_level": "O1"}}, ["amp is not served", "dtype"]),
        ({"optimizer": {"type": "AdamW"}}, ["optimizer is not served", "optim_step"]),
        ({"scheduler": {"type": "WarmupLR"}}, ["scheduler is not served", "learning_rate"]),
        ({"gradient_clipping": 1.0}, ["gradient_clipping 1.0", "grad_clip_norm"]),
        ({"gradient_accumulation_steps": 4}, ["gradient_accumulation_steps 4", "optim_step"]),
        ({"train_batch_size": 32}, ["train_batch_size 32", "trainer.micro_batch_tokens"]),
        ({"tensorboard": {"enabled": True}}, ["tensorboard is not served"]),
        ({"zero_optimisation": {}}, ["unknown key zero_optimisation"]),
    ],
)
def test_what_would_not_be_honoured_is_refused(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        read_plan(config)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_activations_are_not_computed_twice_with_a_partitioned_base() -> None:
    stage_3 = {"zero_optimization": {"stage": 3}}
    with pytest.raises(ValidationError, match="lower micro_batch_tokens instead"):
        TrainerConfig(deepspeed=stage_3, activation_memory_gb=1)


def test_the_key_takes_a_mapping_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    config = {"zero_optimization": {"stage": 1}}
    file.write_text(json.dumps(config))
    trainer = TrainerConfig.model_validate({"deepspeed": str(file)})
    assert trainer == TrainerConfig(deepspeed=config)
    assert trainer.deepspeed_plan.adapter_stage == 1
    # What the children get does not need the file.
    file.unlink()
    assert TrainerConfig.model_validate_json(trainer.model_dump_json()) == trainer
    for text, expected in (
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "valid dictionary"),
        ('{"fp16": {"enabled": true}}', "fp16 is not served"),
    ):
        if text is not None:
            file.write_text(text)
        with pytest.raises(ValidationError, match=expected) as caught:
            TrainerConfig.model_validate({"deepspeed": str(file)})
        assert caught.value.errors()[0]["loc"] == ("deepspeed",)
