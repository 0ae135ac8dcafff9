"""Loaded tiny models; a test that injects LoRA or changes weights loads its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuft.modeling.loading import load_base
from tuft.modeling.lora import inject_lora


@pytest.fixture(params=["qwen3", "tied-llama"])
def base_folder(request: pytest.FixtureRequest) -> Path:
    name = "tiny_model_folder" if request.param == "qwen3" else "tiny_tied_llama_folder"
    folder = request.getfixturevalue(name)
    assert isinstance(folder, Path)
    return folder


@pytest.fixture
def lora_model(base_folder: Path) -> Any:
    model = load_base(base_folder, "float32", "cpu")
    inject_lora(model)
    return model
