"""One DeepSpeed engine per adapter, over the adapter's own parameters and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from tuft.contracts.operations import OptimStep
from tuft.contracts.records import LoraSpec
from tuft.deepspeed_config import DeepSpeedPlan
from tuft.errors import DamagedCheckpoint
from tuft.modeling.lora import Adapter
from tuft.modeling.tensor_files import read_safetensors
from tuft.training.commands import StepReport
from tuft.training.state import AdapterState

# Losses are sums, and so are gradients over ranks.
_CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "managed_gradient_accumulation": False,
    "gradient_allreduce_op": "sum",
    # ClippingAdamW clips, as each step asks; DeepSpeed would clip to 1 on its own.
    "gradient_clipping": 0.0,
    # It knows torch's AdamW by its very class only.
    "zero_allow_untested_optimizer": True,
}
_MOMENTS = ("exp_avg", "exp_avg_sq")


class ClippingAdamW(torch.optim.AdamW):
    """AdamW that measures and clips the gradient, and refuses one that is not finite.

    DeepSpeed calls `step` when the gradients are reduced over the ranks, so that all ranks see
    the same norm and decide alike.
    """

    max_norm: float = 0.0
    report: StepReport | None = None
    partitioned: bool = False
    """Each rank has a part of the parameter, and of its gradient (ZeRO 1)."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]  # no closures
        assert closure is None
        parameters = self.param_groups[0]["params"]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if self.partitioned:
            square = norm.double().square()
            dist.all_reduce(square)
            norm = square.sqrt().to(norm.dtype)
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

    def __init__(self, adapter: Adapter, plan: DeepSpeedPlan) -> None:
        import deepspeed

        self.adapter = adapter
        self._optimizer = ClippingAdamW(adapter.parameters(), fused=True)
        self._optimizer.partitioned = plan.adapter_stage == 1
        self._engine: Any = deepspeed.initialize(
            model=adapter,
            optimizer=self._optimizer,
            config={**_CONFIG, "zero_optimization": dict(plan.adapter_zero)},
        )[0]
        # For DeepSpeed's own checkpoints; it would keep the first adapter's moments alive.
        parameter: Any = adapter.flat
        parameter._hp_mapping = None

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
        """AdamW's state as safetensors: `{parameter}/{moment}`; the step is in the metadata.

        The same for any number of ranks. Collective where the state is partitioned.
        """
        tensors: dict[str, Tensor] = {}
        step = 0
        state = self._optimizer.state.get(self._optimized)
        if state:
            step = int(state["step"])
            for moment in _MOMENTS:
                views = self.adapter.views_of(self._whole(state[moment].detach()).cpu())
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
        moments = {
            moment: self._part(_moment(self.adapter, tensors, moment)) for moment in _MOMENTS
        }
        self._set_moments(step, moments)

    def tensors(self) -> dict[str, Tensor]:
        """All that this rank has: `flat`, `grad` where one is accumulated, moments where there
        are some; each float32 of one dimension.
        """
        found = {"flat": self.adapter.flat.detach()}
        if self.adapter.flat.grad is not None:
            found["grad"] = self.adapter.flat.grad
        state = self._optimizer.state.get(self._optimized) or {}
        return found | {moment: state[moment] for moment in _MOMENTS if state}

    @property
    def steps(self) -> int:
        """Optimizer steps that the moments are of; 0 where there are none."""
        state = self._optimizer.state.get(self._optimized)
        return int(state["step"]) if state else 0

    def take_over(self, spec: LoraSpec, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on as another adapter of the same layout, bit for bit.

        `tensors` and `steps` as the other one's engine gave them on this rank; `flat` alone for
        a fresh one.
        """
        flat = self.adapter.flat.detach()
        self.reset()
        self.adapter.spec, self.adapter.scaling = spec, spec.alpha / spec.rank
        flat.copy_(tensors["flat"])
        if self._optimizer.partitioned:
            self._optimized.detach().copy_(self._part(flat))
        if "grad" in tensors:
            self.adapter.begin_gradient()
            gradient = self.adapter.flat.grad
            assert gradient is not None
            gradient.copy_(tensors["grad"])
        if steps > 0:
            self._set_moments(steps, {moment: tensors[moment] for moment in _MOMENTS})

    def capture(self, *, gradient: bool) -> AdapterState:
        """A copy on the CPU of all that the ranks have, the same on each; collective where the
        moments are partitioned, and with `gradient`, which sums what they have accumulated.
        """
        tensors = {"flat": _copy(self.adapter.flat)}
        state = self._optimizer.state.get(self._optimized)
        if state:
            tensors |= {name: _copy(self._whole(state[name].detach())) for name in _MOMENTS}
        if gradient:
            tensors["grad"] = _copy(self._summed_gradient())
        return AdapterState(self.adapter.spec, self.adapter.layout, self.steps, tensors)

    def resume(self, state: AdapterState, *, gradient: bool) -> None:
        """Go on as `state` has it; without `gradient` nothing is accumulated on this rank."""
        flat = state.tensors["flat"].to(self.adapter.flat.device)
        tensors = {"flat": flat}
        for name in _MOMENTS:
            if name in state.tensors:
                # A copy: what it is a view of shall not be kept for its sake.
                tensors[name] = self._part(state.tensors[name].clone())
        if gradient and "grad" in state.tensors:
            tensors["grad"] = state.tensors["grad"]
        self.take_over(state.spec, tensors, state.steps)

    def _summed_gradient(self) -> Tensor:
        grad = self.adapter.flat.grad
        if dist.get_world_size() == 1:
            return torch.zeros_like(self.adapter.flat) if grad is None else grad
        total = torch.zeros_like(self.adapter.flat.detach()) if grad is None else grad.clone()
        dist.all_reduce(total)
        return total

    def reset(self) -> None:
        """Forget gradients and moments."""
        self.adapter.forget_gradient()
        self._optimizer.state.clear()

    def _set_moments(self, steps: int, moments: Mapping[str, Tensor]) -> None:
        optimized = self._optimized
        self._optimizer.state[optimized] = {
            "step": torch.tensor(float(steps), device=optimized.device),
            **{name: moment.to(optimized.device) for name, moment in moments.items()},
        }

    @property
    def _optimized(self) -> Tensor:
        """What this rank's optimizer steps: the parameter, or this rank's part, float32."""
        parameter: Tensor = self._optimizer.param_groups[0]["params"][0]
        return parameter

    def _whole(self, part: Tensor) -> Tensor:
        """One entry a weight, of what is split over the ranks as `_optimized` is. Collective."""
        if not self._optimizer.partitioned:
            return part
        whole = part.new_empty(part.numel() * dist.get_world_size())
        dist.all_gather_single(whole, part)
        return whole[: self.adapter.flat.numel()]

    def _part(self, whole: Tensor) -> Tensor:
        """This rank's part of one entry a weight; the last rank's ends in zeros."""
        if not self._optimizer.partitioned:
            return whole
        part = whole.new_zeros(self._optimized.numel())
        mine = whole[dist.get_rank() * part.numel() :][: part.numel()]
        part[: mine.numel()] = mine
        return part


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


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
