"""Fixtures that all tests share. Heavy imports stay inside, so that other tests start fast."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 (4 layers, hidden 64, vocabulary 512, context 256) with a tokenizer."""
    from tests.helpers.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture(scope="session")
def tiny_tied_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same size as a Llama, with tied input and output embeddings."""
    from tests.helpers.tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return build_tiny_model(folder, architecture="llama", tied=True)
