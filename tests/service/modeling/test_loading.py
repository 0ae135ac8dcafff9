from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tuft.config import ModelConfig
from tuft.errors import ConfigError
from tuft.modeling.loading import describe_model, load_base
from tuft.modeling.lora import inject_lora


def config(folder: Path, max_model_len: int | None = None) -> ModelConfig:
    return ModelConfig(model_name="test/tiny", model_path=str(folder), max_model_len=max_model_len)


def test_a_loaded_base_is_frozen_and_float32_on_cpu(tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "auto", "cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    bf16 = load_base(tiny_model_folder, "bfloat16", "cpu")
    assert {parameter.dtype for parameter in bf16.parameters()} == {torch.bfloat16}


def test_what_the_api_learns_of_a_model(tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "auto", "cpu")
    info = describe_model(model, config(tiny_model_folder))
    assert info.model_name == "test/tiny"
    assert info.architecture == "Qwen3ForCausalLM"
    assert (info.vocab_size, info.max_model_len, info.eos_token_ids) == (512, 256, [0])
    assert (info.attn_modules, info.mlp_modules, info.unembed_modules) == (16, 12, 1)
    inject_lora(model)
    assert describe_model(model, config(tiny_model_folder)) == info
    assert describe_model(model, config(tiny_model_folder, 64)).max_model_len == 64


def test_a_context_longer_than_the_models_is_refused(tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "auto", "cpu")
    with pytest.raises(ConfigError, match=r"max_model_len 512 of 'test/tiny' is more than .* 256"):
        describe_model(model, config(tiny_model_folder, 512))


def test_a_folder_without_a_model_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't load the model"):
        load_base(tmp_path, "auto", "cpu")
