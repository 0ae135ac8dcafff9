"""All that a training run has on the ranks, as a snapshot keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import Tensor

from tuft.contracts.policies import Content
from tuft.contracts.records import LoraSpec
from tuft.errors import DamagedCheckpoint
from tuft.modeling.lora import Layout
from tuft.modeling.tensor_files import read_safetensors, write_safetensors

STATE_FILE = "state.safetensors"
_ABOUT = "tuft_state"


@dataclass(frozen=True)
class AdapterState:
    """Weights, moments and accumulated gradient of an adapter, whatever ranks they were on.

    `tensors` are float32 [n] on the CPU: `flat`; `exp_avg` and `exp_avg_sq` where there are
    moments, of `steps` optimizer steps; `grad` where gradients were accumulated.
    """

    spec: LoraSpec
    layout: Layout
    steps: int
    tensors: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def encode(self) -> bytes:
        """The content of a safetensors file."""
        about = {
            "spec": self.spec.model_dump(),
            "layout": [[name, list(shape)] for name, shape in self.layout],
            "steps": self.steps,
        }
        return write_safetensors(self.tensors, {"format": "pt", _ABOUT: json.dumps(about)})

    @classmethod
    def decode(cls, data: Content) -> AdapterState:
        """Raises: DamagedCheckpoint."""
        try:
            tensors, metadata = read_safetensors(data)
            about = json.loads(metadata[_ABOUT])
            layout = tuple((name, torch.Size(shape)) for name, shape in about["layout"])
            spec = LoraSpec.model_validate(about["spec"])
            count = sum(shape.numel() for _, shape in layout)
            wrong = [name for name, tensor in tensors.items() if tensor.numel() != count]
            if wrong or "flat" not in tensors:
                raise ValueError(f"its layout has {count} weights, which {wrong} do not fit")
            return cls(spec, layout, int(about["steps"]), tensors)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"the state of a snapshot can't be read: {error}") from error
