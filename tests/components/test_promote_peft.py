"""Merged weights against PEFT's own, with real models and torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.components.test_promote import params_for, publish
from tests.helpers.tiny_model import build_tiny_model
from tuft_components.promote.adapters import Adapter

pytestmark = pytest.mark.slow

TOKENS = torch.tensor([[5, 42, 99, 7, 300, 12]])


def model_in(folder: Path, dtype: torch.dtype, *, tied: bool) -> Path:
    build_tiny_model(folder, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(folder, max_shard_size="300KB")
    assert (folder / "model.safetensors.index.json").exists()
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder


def adapter_in(folder: Path, base: Path) -> Adapter:
    """Made by PEFT, with random A and B, on every linear layer."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights=False)
    peft_model: Any = get_peft_model(model, config)
    peft_model.save_pretrained(folder, save_embedding_layers=False)
    return Adapter.read(folder)


def merged_in(target: Path, base: Path, adapter: Adapter) -> Any:
    params = params_for(str(target), merge=True, base_model_uri=str(base))
    folder = Path(publish(params, adapter)[0]) / "merged"
    return AutoModelForCausalLM.from_pretrained(folder)


def test_merged_weights_are_those_that_peft_makes(tmp_path: Path) -> None:
    base = model_in(tmp_path / "base", torch.float32, tied=False)
    adapter = adapter_in(tmp_path / "adapter", base)
    ours = merged_in(tmp_path / "models", base, adapter)
    plain = AutoModelForCausalLM.from_pretrained(base)
    theirs = PeftModel.from_pretrained(plain, str(adapter.folder)).merge_and_unload()
    found, wanted = ours.state_dict(), theirs.state_dict()
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(
            found[name].numpy(), value.numpy(), rtol=1e-6, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("tied", [False, True])
def test_the_merged_model_says_what_the_adapter_says(tied: bool, tmp_path: Path) -> None:
    """Where the output layer shares its weights with the embedding, merging into both is wrong."""
    base = model_in(tmp_path / "base", torch.float32, tied=tied)
    adapter = adapter_in(tmp_path / "adapter", base)
    ours = merged_in(tmp_path / "models", base, adapter)
    plain = AutoModelForCausalLM.from_pretrained(base)
    theirs = PeftModel.from_pretrained(plain, str(adapter.folder))
    with torch.no_grad():
        np.testing.assert_allclose(
            ours(TOKENS).logits.numpy(), theirs(TOKENS).logits.numpy(), rtol=1e-4, atol=1e-4
        )


def test_bfloat16_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    base = model_in(tmp_path / "base", torch.bfloat16, tied=False)
    adapter = adapter_in(tmp_path / "adapter", base)
    ours = merged_in(tmp_path / "models", base, adapter)
    assert json.loads((base / "config.json").read_text())["dtype"] == "bfloat16"
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    exact = PeftModel.from_pretrained(plain, str(adapter.folder)).merge_and_unload().state_dict()
    differ = 0
    for name, value in ours.state_dict().items():
        assert value.dtype == torch.bfloat16
        wanted = exact[name].to(torch.bfloat16)
        differ += int((value != wanted).sum())
        # Sums in another order may be rounded to the other neighbour, seldom.
        np.testing.assert_allclose(value.float().numpy(), wanted.float().numpy(), rtol=2**-7)
    assert differ < 20
