"""Make adapters, and read and write them as plain PEFT folders."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import cast

import torch
from safetensors import SafetensorError
from torch import nn

from tuft.contracts.policies import Content
from tuft.contracts.records import LoraSpec
from tuft.errors import DamagedCheckpoint, InvalidRequest
from tuft.modeling.lora import Adapter, Layout, LoraLinear, ModuleKind, target_modules
from tuft.modeling.tensor_files import read_safetensors, write_safetensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SPEC = "tuft_lora_spec"


def new_adapter(model: nn.Module, spec: LoraSpec) -> Adapter:
    """A fresh adapter on the model's device: B is zero, so it changes nothing yet.

    A is drawn as PEFT draws it, from a CPU generator seeded by (seed, parameter name), so
    that it depends on neither the device nor the order of modules.

    Raises:
        InvalidRequest: the spec selects no layer of this model.
    """
    weights = {}
    for name, (out_features, in_features, device) in _selected(model, spec).items():
        a = torch.empty(spec.rank, in_features, dtype=torch.float32)
        generator = torch.Generator().manual_seed(_seed(spec.seed, f"{name}.lora_A.weight"))
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        b = torch.zeros(out_features, spec.rank, dtype=torch.float32, device=device)
        weights[name] = (a.to(device), b)
    return Adapter(spec, weights)


def adapter_files(adapter: Adapter, base_model: str) -> dict[str, bytes]:
    """The files of a PEFT adapter folder; `PeftModel.from_pretrained` loads them."""
    views = adapter.views_of(adapter.flat.detach().cpu())
    tensors = {f"{_PREFIX}{name.replace('/', '.')}.weight": view for name, view in views.items()}
    spec = adapter.spec
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": list(adapter.modules_trained),
    }
    # PEFT warns about config keys that it does not know, so the rest of the spec goes here.
    metadata = {"format": "pt", _SPEC: spec.model_dump_json()}
    return {
        CONFIG_FILE: json.dumps(config, indent=2).encode(),
        WEIGHTS_FILE: write_safetensors(tensors, metadata),
    }


def adapter_from_files(model: nn.Module, files: Mapping[str, Content]) -> Adapter:
    """Rebuild an adapter, on the model's device, from the files of `adapter_files`.

    Raises:
        DamagedCheckpoint: a file is missing or unreadable, or its tensors are not those of
            an adapter of this model.
    """
    spec, tensors = read_adapter(files)
    weights = {}
    for name, (out_features, in_features, device) in _selected(model, spec).items():
        a = tensors.pop(f"{_PREFIX}{name}.lora_A.weight", None)
        b = tensors.pop(f"{_PREFIX}{name}.lora_B.weight", None)
        if a is None or b is None:
            raise DamagedCheckpoint(f"the adapter has no LoRA weights for layer {name}")
        wanted = ((spec.rank, in_features), (out_features, spec.rank))
        if (tuple(a.shape), tuple(b.shape)) != wanted:
            raise DamagedCheckpoint(
                f"the adapter's weights for layer {name} have shapes {tuple(a.shape)} and "
                f"{tuple(b.shape)}; this model needs {wanted[0]} and {wanted[1]}"
            )
        weights[name] = (a.float().to(device), b.float().to(device))
    if tensors:
        raise DamagedCheckpoint(
            f"the adapter has weights that this model has no layer for: {sorted(tensors)[:3]}"
        )
    return Adapter(spec, weights)


def layout_of(model: nn.Module, spec: LoraSpec) -> Layout:
    """`Adapter.layout` of an adapter of this model. Raises InvalidRequest as `new_adapter`."""
    return tuple(
        (f"{name.replace('.', '/')}/{part}", torch.Size(shape))
        for name, (out_features, in_features, _) in _selected(model, spec).items()
        for part, shape in (
            ("lora_A", (spec.rank, in_features)),
            ("lora_B", (out_features, spec.rank)),
        )
    )


def read_adapter(files: Mapping[str, Content]) -> tuple[LoraSpec, dict[str, torch.Tensor]]:
    """Spec and CPU tensors (by PEFT's names) of an adapter folder's files.

    Raises:
        DamagedCheckpoint: a file is missing or unreadable.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in files:
            raise DamagedCheckpoint(f"the adapter has no file {name}")
    try:
        tensors, metadata = read_safetensors(files[WEIGHTS_FILE])
        return LoraSpec.model_validate_json(metadata[_SPEC]), tensors
    except (SafetensorError, ValueError) as error:
        raise DamagedCheckpoint(f"the adapter can't be read: {error}") from error
    except KeyError as error:
        raise DamagedCheckpoint("the adapter was not written by this service") from error


def _selected(model: nn.Module, spec: LoraSpec) -> dict[str, tuple[int, int, torch.device]]:
    """Layers that the spec trains: name -> (out features, in features, device)."""
    wanted: set[ModuleKind] = set()
    if spec.train_attn:
        wanted.add("attn")
    if spec.train_mlp:
        wanted.add("mlp")
    if spec.train_unembed:
        wanted.add("unembed")
    selected = {}
    for name, kind in target_modules(model).items():
        if kind not in wanted:
            continue
        layer = model.get_submodule(name)
        base = layer.base if isinstance(layer, LoraLinear) else cast("nn.Linear", layer)
        # Not its weight's shape: that of a partitioned weight is 0.
        selected[name] = (base.out_features, base.in_features, base.weight.device)
    if not selected:
        raise InvalidRequest(
            "train_attn, train_mlp and train_unembed select no layer of this model: "
            "at least one must be true and have layers"
        )
    return selected


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
