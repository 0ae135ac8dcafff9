"""One DeepSpeed engine per adapter, over the adapter's own parameters and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from tuft.contracts.operations import OptimStep
from tuft.errors import DamagedCheckpoint
from tuft.modeling.adapters import read_safetensors
from tuft.modeling.lora import Adapter
from tuft.training.commands import StepReport

# Losses are sums, and so are gradients over ranks. ZeRO 0: LoRA's optimizer state is small.
_CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "zero_optimization": {"stage": 0},
    "managed_gradient_accumulation": False,
    "gradient_allreduce_op": "sum",
    # ClippingAdamW clips, as each step asks; DeepSpeed would clip to 1 on its own.
    "gradient_clipping": 0.0,
}
_MOMENTS = ("exp_avg", "exp_avg_sq")


class ClippingAdamW(torch.optim.AdamW):
    """AdamW that measures and clips the gradient, and refuses one that is not finite.

    DeepSpeed calls `step` when the gradients are reduced over the ranks, so that all ranks see
    the same norm and decide alike.
    """

    max_norm: float = 0.0
    report: StepReport | None = None

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # no closures
        assert closure is None
        parameters = self.param_groups[0]["params"]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        grad_norm = float(norm)
        self.report = StepReport(grad_norm=grad_norm, applied=math.isfinite(grad_norm))
        if not self.report.applied:
            return
        if self.max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)
        super().step()


class AdapterEngine:
    """An adapter in training: its gradients, its optimizer, its DeepSpeed engine.

    Making one is a collective operation: the ranks' weights become those of rank 0.
    """

    def __init__(self, adapter: Adapter) -> None:
        import deepspeed

        self.adapter = adapter
        self._optimizer = ClippingAdamW(adapter.parameters(), fused=True)
        self._engine: Any = deepspeed.initialize(
            model=adapter, optimizer=self._optimizer, config=_CONFIG
        )[0]

    def step(self, settings: OptimStep) -> StepReport:
        """Reduce the accumulated gradients over the ranks, clip, and step; then clear them.

        Without any forward_backward before, the gradient is zero. Collective.
        """
        self.adapter.begin_gradient()
        self._optimizer.param_groups[0].update(
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self._optimizer.max_norm = settings.grad_clip_norm
        self._engine.step()
        self.adapter.forget_gradient()
        report = self._optimizer.report
        assert report is not None
        return report

    def clear_gradients(self) -> None:
        self.adapter.forget_gradient()

    def optimizer_file(self) -> bytes:
        """AdamW's state as safetensors: `{parameter}/{moment}`; the step is in the metadata."""
        tensors: dict[str, Tensor] = {}
        step = 0
        state = self._optimizer.state.get(self.adapter.flat)
        if state:
            step = int(state["step"])
            for moment in _MOMENTS:
                views = self.adapter.views_of(state[moment].detach().cpu())
                tensors |= {f"{name}/{moment}": view.clone() for name, view in views.items()}
        return save(tensors, metadata={"format": "pt", "adamw": json.dumps({"step": step})})

    def load_optimizer(self, data: bytes) -> None:
        """Take over what `optimizer_file` gave.

        Raises:
            DamagedCheckpoint: it is not the state of an optimizer of this adapter.
        """
        step, tensors = _read_optimizer(data)
        if step == 0:
            return
        flat = self.adapter.flat
        self._optimizer.state[flat] = {
            "step": torch.tensor(float(step), device=flat.device),
            **{moment: _moment(self.adapter, tensors, moment) for moment in _MOMENTS},
        }


def _moment(adapter: Adapter, tensors: Mapping[str, Tensor], moment: str) -> Tensor:
    flat = torch.empty_like(adapter.flat.detach())
    for name, view in adapter.views_of(flat).items():
        tensor = tensors.get(f"{name}/{moment}")
        if tensor is None or tensor.shape != view.shape:
            raise DamagedCheckpoint(f"the optimizer state has no fitting {name}/{moment}")
        view.copy_(tensor)
    return flat


def _read_optimizer(data: bytes) -> tuple[int, dict[str, Tensor]]:
    try:
        tensors, metadata = read_safetensors(data)
        return int(json.loads(metadata["adamw"])["step"]), tensors
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"the optimizer state can't be read: {error}") from error
