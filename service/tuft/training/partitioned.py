"""A frozen base model whose weights are partitioned over the ranks (DeepSpeed ZeRO 3).

Its modules gather their weights by hooks, in forward and in backward: every call is a
collective, and every rank must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tuft.modeling.loading import PreTrainedModel

# Stands for "somebody uses it" among the ids of modules that do.
_HELD = -1


class PartitionedBase:
    """Partitions a model in place; LoRA layers are put in afterwards."""

    def __init__(
        self, model: PreTrainedModel, zero: Mapping[str, Any], device: torch.device
    ) -> None:
        """Collective.

        Args:
            model: frozen, on the CPU; its pieces go to `device` one weight at a time, so that
                no device ever holds the whole.
            zero: DeepSpeed's section `zero_optimization`.
            device: where this rank computes.
        """
        import deepspeed

        config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": dict(zero)}
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
        engine = deepspeed.initialize(model=model, config=config)[0]
        self._coordinator = engine.optimizer.get_param_coordinator()
        self._output: nn.Module = model.get_output_embeddings()
        # The output projection is called as often as its rank has positions for. Its weight is
        # gathered around those calls, once, instead of by them.
        self._output._forward_hooks.clear()
        self._output._forward_pre_hooks.clear()
        model.get_input_embeddings().register_forward_hook(_ask_for_gradient)

    def begin(self) -> None:
        """A forward pass begins: what is fetched ahead of its use starts from the beginning."""
        self._coordinator.reset_step()

    @contextmanager
    def whole_output(self) -> Iterator[None]:
        """The output projection's weight is there, on all ranks. Collective."""
        import deepspeed

        # Any: DeepSpeed adds attributes to parameters.
        parameters: list[Any] = list(self._output.parameters())
        with deepspeed.zero.GatheredParameters(parameters):
            for parameter in parameters:
                parameter.ds_active_sub_modules.add(_HELD)
            try:
                yield
            finally:
                for parameter in parameters:
                    parameter.ds_active_sub_modules.discard(_HELD)


def _ask_for_gradient(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a hook's
    """Have the backward pass go through all layers, whichever of them have LoRA on this rank."""
    return output.requires_grad_() if torch.is_grad_enabled() else output
