"""Load a base model, frozen, and say what the api must know of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tuft.config import ModelConfig
from tuft.contracts.records import ModelInfo
from tuft.errors import ConfigError
from tuft.modeling.lora import target_modules
from tuft.modeling.sharing import shared_bytes, shared_folder

log = logging.getLogger(__name__)

# Any: transformers is typed in part only, and mypy does not follow it.
PreTrainedModel = Any


def load_base(folder: Path, dtype: str, device: torch.device | str) -> PreTrainedModel:
    """Load the model in `folder`, in eval mode, with no parameter that asks for a gradient.

    On CPU its weights are shared, read-only in effect, with other processes that load it.

    Args:
        folder: what `prepare_model` gave.
        dtype: "float32", "bfloat16", or "auto": float32 on CPU, bfloat16 elsewhere.
        device: where to.

    Raises:
        ConfigError: the folder's model can't be loaded.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = torch.device(device)
    wanted = resolve_dtype(dtype, device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            shared_folder(folder, wanted, device), dtype=wanted, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"can't load the model in {folder}: {error}") from error
    model.requires_grad_(False)
    model.eval()
    if device.type == "cpu":
        own, all_of_it = shared_bytes(model), sum(p.nbytes for p in model.parameters())
        log.info("%s: %d of %d MB of weights are mapped", folder.name, own >> 20, all_of_it >> 20)
    return model.to(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype that a model's configuration means on a device."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]


def describe_model(model: PreTrainedModel, config: ModelConfig) -> ModelInfo:
    """What requests are validated against.

    Raises:
        ConfigError: `max_model_len` is more than the model was made for.
    """
    kinds = list(target_modules(model).values())
    return ModelInfo(
        model_name=config.model_name,
        architecture=type(model).__name__,
        tokenizer_id=_tokenizer_id(config),
        vocab_size=int(model.config.get_text_config().vocab_size),
        max_model_len=_max_model_len(model, config),
        num_parameters=count_parameters(model.parameters()),
        eos_token_ids=_eos_token_ids(model),
        attn_modules=kinds.count("attn"),
        mlp_modules=kinds.count("mlp"),
        unembed_modules=kinds.count("unembed"),
    )


def _tokenizer_id(config: ModelConfig) -> str:
    """What the SDK hands to AutoTokenizer: the hub name, or a folder of this machine.

    A folder helps clients on the same machine only; others get the tokenizer by `tuft_sdk`.
    """
    path = Path(config.model_path)
    return str(config.resolved_folder or path) if path.exists() else config.model_path


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _max_model_len(model: PreTrainedModel, config: ModelConfig) -> int:
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if config.max_model_len is None:
        if own is None:
            raise ConfigError(
                f"model {config.model_name!r} does not say how long its context is; "
                "set max_model_len"
            )
        return int(own)
    if own is not None and config.max_model_len > own:
        raise ConfigError(
            f"max_model_len {config.max_model_len} of {config.model_name!r} is more than the "
            f"model's own {own}"
        )
    return config.max_model_len


def _eos_token_ids(model: PreTrainedModel) -> list[int]:
    value = getattr(model.generation_config, "eos_token_id", None)
    if value is None:
        value = model.config.get_text_config().eos_token_id
    if value is None:
        return []
    return [int(item) for item in (value if isinstance(value, list | tuple) else [value])]
