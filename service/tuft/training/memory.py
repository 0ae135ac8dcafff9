"""How much memory a micro-batch's activations may take before they are computed twice instead."""

from __future__ import annotations

import torch

from tuft.modeling.free_memory import free_bytes

# Of what is free once the base model is loaded: the sampler and others need some, too.
_SHARE_OF_FREE = {"cpu": 0.25, "cuda": 0.7}


def activation_bytes(configured_gb: float | None, device: torch.device, ranks: int) -> int:
    """Bytes for one rank.

    Args:
        configured_gb: trainer.activation_memory_gb, in GB (1e9 bytes); None: a quarter of the
            free memory of the machine, or of the pod, shared by its `ranks`, or 70 % of a GPU's.
        device: the rank's.
        ranks: of the group, taken to be all on this machine where there is no GPU.
    """
    if configured_gb is not None:
        return int(configured_gb * 1e9)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE_OF_FREE["cuda"])
    return int(free_bytes() * _SHARE_OF_FREE["cpu"]) // ranks
