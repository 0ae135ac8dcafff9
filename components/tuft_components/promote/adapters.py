"""The PEFT adapter of a checkpoint or policy, as files on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuft_components.errors import BadData
from tuft_components.promote.safetensors_files import Floats, Place, places, read_tensor

if TYPE_CHECKING:
    import tuft_sdk

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def fetch_adapter(
    client: tuft_sdk.TuftClient, found: tuft_sdk.CheckpointInfo, base_model: str, folder: Path
) -> Adapter:
    """Into `folder`. `base_model` is what the adapter's configuration names, where it is given.

    Raises:
        tuft_sdk.SdkError: the service is away, or the checkpoint is gone.
    """
    for name in (CONFIG, WEIGHTS):
        client.download(found, name, folder / name)
    if base_model:
        config = json.loads((folder / CONFIG).read_text())
        config["base_model_name_or_path"] = base_model
        (folder / CONFIG).write_text(json.dumps(config, indent=2))
    return Adapter.read(folder)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter; `pairs` says where in its file A and B of each layer lie."""

    folder: Path
    config: Mapping[str, Any]
    scaling: float
    pairs: Mapping[str, tuple[Place, Place]]

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Raises:
        BadData: it is no plain LoRA adapter.
        """
        try:
            config = json.loads((folder / CONFIG).read_text())
            scaling = float(config["lora_alpha"]) / int(config["r"])
            kind = str(config["peft_type"])
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise BadData(f"{CONFIG} is not that of a LoRA adapter: {error!r}") from error
        extra = [name for name in ("use_dora", "use_rslora", "fan_in_fan_out") if config.get(name)]
        if kind != "LORA" or extra:
            raise BadData(
                f"{CONFIG}: only plain LoRA can be merged, not {', '.join(extra) or kind}"
            )
        found = places(folder / WEIGHTS, WEIGHTS)
        pairs = {}
        for name in found:
            if name.startswith(_PREFIX) and name.endswith(".lora_A.weight"):
                layer = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
                other = found.get(f"{_PREFIX}{layer}.lora_B.weight")
                if other is not None:
                    pairs[layer] = (found[name], other)
        if 2 * len(pairs) != len(found) or not pairs:
            raise BadData(f"{WEIGHTS} has tensors that are no pairs of a LoRA adapter")
        return cls(folder, config, scaling, pairs)

    def weights(self, layer: str) -> tuple[Floats, Floats]:
        """A [rank, in] and B [out, rank] of a layer."""
        file = self.folder / WEIGHTS
        a, b = self.pairs[layer]
        return read_tensor(file, a, f"{layer}.lora_A"), read_tensor(file, b, f"{layer}.lora_B")
