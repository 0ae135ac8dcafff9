"""Engines on tiny random models in float32, and plain models to compare with."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.service.sampling.harness import (
    LoadPolicy,
    MakeEngine,
    MakePolicy,
    drain,
    info_of,
    policy_files,
    vllm_config,
)
from tuft.modeling.loading import load_base
from tuft.modeling.lora import inject_lora
from tuft.sampling.detokenizer import load_detokenizer
from tuft.sampling.engine import Engine
from tuft.sampling.transformers_engine import TransformersEngine

FOLDERS = {
    "qwen3": "tiny_model_folder",
    "tied-llama": "tiny_tied_llama_folder",
    "vllm": "tiny_vllm_folder",
}


@pytest.fixture(
    params=[
        "qwen3",
        "tied-llama",
        pytest.param(
            "vllm",
            marks=[
                pytest.mark.slow,
                pytest.mark.timeout(600),
                pytest.mark.skipif(
                    importlib.util.find_spec("vllm") is None,
                    reason="vLLM is not installed: `make install-vllm`",
                ),
            ],
        ),
    ]
)
def case(request: pytest.FixtureRequest) -> str:
    """Two models with the transformers engine, and one with vLLM's: `engine` is what it says."""
    return str(request.param)


@pytest.fixture
def folder(case: str, request: pytest.FixtureRequest) -> Path:
    value = request.getfixturevalue(FOLDERS[case])
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
    """For tests of the transformers engine alone."""

    def make(**options: Any) -> TransformersEngine:
        model = load_base(folder, "float32", "cpu")
        settings = {"max_sequences": 16, "max_cells": 1 << 20, **options}
        return TransformersEngine(model, info_of(model), load_detokenizer(folder), **settings)

    return make


@pytest.fixture(scope="session")
def vllm_engine(tiny_vllm_folder: Path) -> Iterator[Engine]:
    """vLLM in float32 with 16 sequences and 3 policies at a time; it takes most of a minute."""
    from tuft.sampling.vllm_options import start_vllm

    config = vllm_config(tiny_vllm_folder)
    engine = start_vllm(config, config.supported_models[0], tiny_vllm_folder)
    yield engine
    engine.close()


@pytest.fixture
def engine(case: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    if case == "vllm":
        shared: Engine = request.getfixturevalue("vllm_engine")
        yield shared
        drain(shared)
    else:
        make: MakeEngine = request.getfixturevalue("make_engine")
        yield make()


@pytest.fixture
def load_policy(engine: Engine) -> Iterator[LoadPolicy]:
    """Loads a policy and gives its name; it is dropped when the test ends."""
    loaded: list[str] = []

    def load(files: dict[str, bytes]) -> str:
        name = f"policy-{next(_NUMBERS)}"
        engine.load_policy(name, files)
        loaded.append(name)
        return name

    yield load
    for name in loaded:
        engine.drop_policy(name)


@pytest.fixture
def make_policy(case: str, plain: Any) -> MakePolicy:
    """Files of a policy that `engine` can serve: vLLM is not given LoRA on the head."""

    def make(seed: int, rank: int = 4, **modules: bool) -> dict[str, bytes]:
        return policy_files(plain, seed, rank, **{"train_unembed": case != "vllm", **modules})

    return make


_NUMBERS = itertools.count()
