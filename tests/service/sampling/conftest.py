"""Engines on tiny random models in float32, and plain models to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.service.sampling.harness import MakeEngine, info_of
from tuft.modeling.loading import load_base
from tuft.modeling.lora import inject_lora
from tuft.sampling.detokenizer import load_detokenizer
from tuft.sampling.transformers_engine import TransformersEngine


@pytest.fixture(params=["qwen3", "tied-llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    name = "tiny_model_folder" if request.param == "qwen3" else "tiny_tied_llama_folder"
    value = request.getfixturevalue(name)
    assert isinstance(value, Path)
    return value


@pytest.fixture
def plain(folder: Path) -> Any:
    """The base model with LoRA layers, attention untouched: what to compare with."""
    torch.set_num_threads(1)
    model = load_base(folder, "float32", "cpu")
    inject_lora(model)
    return model


@pytest.fixture
def make_engine(folder: Path) -> MakeEngine:
    def make(**options: Any) -> TransformersEngine:
        model = load_base(folder, "float32", "cpu")
        settings = {"max_sequences": 16, "max_cells": 1 << 20, **options}
        return TransformersEngine(model, info_of(model), load_detokenizer(folder), **settings)

    return make


@pytest.fixture
def engine(make_engine: MakeEngine) -> TransformersEngine:
    return make_engine()
