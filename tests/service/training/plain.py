"""Any number of tenants in plain PyTorch, one row at a time: what mixed batches must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from tests.service.training.harness import Datum
from tuft.contracts.records import LoraSpec
from tuft.modeling.adapters import new_adapter
from tuft.modeling.loading import load_base

ADAM = {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.01, "grad_clip_norm": 0.5, "eps": 1e-3}
"""The optimizer's settings here. So large an eps, since no weight's step may hang on a gradient
of rounding noise alone."""


@dataclass
class PlainRun:
    """A training run: weights by their names in a checkpoint, and torch's AdamW."""

    base: PlainBase
    spec: LoraSpec
    weights: dict[str, Tensor]
    _optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self._optimizer = torch.optim.AdamW(self.weights.values())

    def logprobs(self, datum: Datum) -> Tensor:
        """float32 [N], of the targets."""
        table = self.base.logits(self, datum.tokens).log_softmax(-1)
        return table.gather(1, torch.from_numpy(datum.targets)[:, None])[:, 0]

    def forward_backward(
        self, data: Sequence[Datum], loss_fn: str, *, forward_only: bool = False
    ) -> list[Tensor]:
        """The logprobs of each row; the gradient is accumulated."""
        found = []
        for datum in data:
            lp = self.logprobs(datum)
            found.append(lp.detach())
            if not forward_only:
                torch.autograd.backward(_loss(loss_fn, lp, datum))
        return found

    def optim_step(self, learning_rate: float) -> None:
        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        torch.nn.utils.clip_grad_norm_(self.weights.values(), ADAM["grad_clip_norm"])
        self._optimizer.param_groups[0].update(
            lr=learning_rate,
            betas=(ADAM["beta1"], ADAM["beta2"]),
            eps=ADAM["eps"],
            weight_decay=ADAM["weight_decay"],
        )
        self._optimizer.step()
        self._optimizer.zero_grad()


class PlainBase:
    """The base model as transformers made it; LoRA is added by hooks."""

    def __init__(self, folder: Path, injected: Any) -> None:
        """`injected`: the same model with LoRA layers, which says how adapters begin."""
        self._injected = injected
        self._model = load_base(folder, "float32", "cpu")
        self._active: PlainRun | None = None
        for name, module in self._model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self._hook(name))

    def run(self, spec: LoraSpec) -> PlainRun:
        tensors = new_adapter(self._injected, spec).tensors()
        weights = {
            f"base_model.model.{name.replace('/', '.')}.weight": tensor.clone().requires_grad_()
            for name, tensor in tensors.items()
        }
        return PlainRun(self, spec, weights)

    def logits(self, run: PlainRun, tokens: Sequence[int]) -> Tensor:
        self._active = run
        logits: Tensor = self._model(input_ids=torch.tensor([tokens])).logits[0]
        return logits

    def _hook(self, name: str) -> Any:
        def add(_: Any, inputs: tuple[Tensor], out: Tensor) -> Tensor:
            assert self._active is not None
            weights = self._active.weights
            a = weights.get(f"base_model.model.{name}.lora_A.weight")
            b = weights.get(f"base_model.model.{name}.lora_B.weight")
            if a is None or b is None:
                return out
            spec = self._active.spec
            return out + spec.alpha / spec.rank * linear(linear(inputs[0], a), b)

        return add


def _loss(name: str, lp: Tensor, datum: Datum) -> Tensor:
    """As `tuft.contracts.losses` says, written anew."""
    inputs: Mapping[str, Tensor] = {k: torch.from_numpy(v) for k, v in datum.inputs.items()}
    if name == "cross_entropy":
        return -(lp * inputs["weights"] if "weights" in inputs else lp).sum()
    advantages, ratio = inputs["advantages"], (lp - inputs["logprobs"]).exp()
    if name == "importance_sampling":
        return -(ratio * advantages).sum()
    if name == "ppo":
        return -torch.min(ratio * advantages, ratio.clip(0.8, 1.2) * advantages).sum()
    if name == "cispo":
        return -(ratio.clip(0.0, 4.0).detach() * advantages * lp).sum()
    assert name == "dro"
    return -(advantages * lp - 0.025 * (lp - inputs["logprobs"]) ** 2).sum()
