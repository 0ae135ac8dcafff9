"""How much the key-value cache may hold."""

from __future__ import annotations

import torch

from tuft.modeling.free_memory import free_bytes
from tuft.modeling.loading import PreTrainedModel

_SHARE_OF_FREE = {"cpu": 0.25, "cuda": 0.8}


def cells_that_fit(model: PreTrainedModel) -> int:
    """Positions for which there is room beside what is in memory now.

    A quarter of the free memory of the machine or the pod, which others need too; most of a GPU's, which is
    the sampler's own.
    """
    device: torch.device = model.device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = free_bytes()
    share = _SHARE_OF_FREE.get(device.type, _SHARE_OF_FREE["cpu"])
    return max(1, int(free * share) // bytes_per_cell(model))


def bytes_per_cell(model: PreTrainedModel) -> int:
    """Keys and values of one position in all layers, in bytes."""
    config = model.config.get_text_config()
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    size = torch.empty((), dtype=model.dtype).element_size()
    return 2 * int(config.num_hidden_layers) * heads * dim * size
