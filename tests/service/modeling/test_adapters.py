from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests.service.modeling.test_lora import IDS, logits, random_adapter
from tuft.errors import DamagedCheckpoint
from tuft.modeling.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_files,
    adapter_from_files,
)
from tuft.modeling.loading import load_base
from tuft.modeling.lora import Segment
from tuft.modeling.tensor_files import read_safetensors


def test_peft_loads_our_files_and_computes_the_same(
    base_folder: Path, lora_model: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    adapter = random_adapter(lora_model, 3, rank=5)
    for name, data in adapter_files(adapter, "some/base").items():
        (tmp_path / name).write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Its advice for merging an adapter of a tied head.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        peft = PeftModel.from_pretrained(load_base(base_folder, "float32", "cpu"), str(tmp_path))
    expected = logits(lora_model, Segment(adapter, 3))
    torch.testing.assert_close(peft(input_ids=IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_peft_loads_an_adapter_of_some_modules(
    base_folder: Path, lora_model: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    adapter = random_adapter(lora_model, 3, train_mlp=False, train_unembed=False)
    for name, data in adapter_files(adapter, "some/base").items():
        (tmp_path / name).write_bytes(data)
    peft = PeftModel.from_pretrained(load_base(base_folder, "float32", "cpu"), str(tmp_path))
    expected = logits(lora_model, Segment(adapter, 3))
    torch.testing.assert_close(peft(input_ids=IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_files_give_the_same_adapter_back(lora_model: Any) -> None:
    adapter = random_adapter(lora_model, 3, rank=5, train_unembed=False)
    back = adapter_from_files(lora_model, adapter_files(adapter, "some/base"))
    assert back.spec == adapter.spec
    assert back.modules_trained == adapter.modules_trained
    assert back.layout == adapter.layout
    assert torch.equal(back.flat, adapter.flat)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(lora_model: Any, name: str) -> None:
    files = adapter_files(random_adapter(lora_model, 3), "some/base")
    del files[name]
    with pytest.raises(DamagedCheckpoint, match=name):
        adapter_from_files(lora_model, files)


def test_damaged_weights_are_refused(lora_model: Any) -> None:
    files = adapter_files(random_adapter(lora_model, 3), "some/base")
    with pytest.raises(DamagedCheckpoint, match="can't be read"):
        adapter_from_files(lora_model, {**files, WEIGHTS_FILE: files[WEIGHTS_FILE][:1000]})


def test_tensors_that_do_not_fit_are_refused(lora_model: Any) -> None:
    files = adapter_files(random_adapter(lora_model, 3), "some/base")
    tensors, metadata = read_safetensors(files[WEIGHTS_FILE])
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"

    def load(changed: dict[str, torch.Tensor]) -> None:
        weights = save(changed, metadata=metadata)
        adapter_from_files(lora_model, {**files, WEIGHTS_FILE: weights})

    load(tensors)
    with pytest.raises(DamagedCheckpoint, match=r"layers\.0\.mlp\.up_proj have shapes"):
        load({**tensors, name: tensors[name][:2].contiguous()})
    with pytest.raises(DamagedCheckpoint, match=r"no LoRA weights for layer model\.layers\.0"):
        load({key: value for key, value in tensors.items() if key != name})
    with pytest.raises(DamagedCheckpoint, match="no layer for"):
        load({**tensors, "base_model.model.extra": tensors[name].clone()})
