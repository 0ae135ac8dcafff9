"""LoRA layers that serve the rows of several adapters in one batch.

Nothing here knows how adapters are made, stored or trained: see `tuft.modeling.adapters`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional

from tuft.contracts.records import LoraSpec

ModuleKind = Literal["attn", "mlp", "unembed"]

_ATTN = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"})
_MLP = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj"})
_STATE = "_tuft_lora_state"


class Adapter(nn.Module):
    """The LoRA weights of one training run or policy, and nothing else.

    Per module `lora_A` float32 [rank, in] and `lora_B` float32 [out, rank], as PEFT has them;
    the module adds `scaling * lora_B @ lora_A` to the base layer. Parameters are named
    `{module}/lora_A`, with `/` for the dots of the module's path.
    """

    def __init__(
        self, spec: LoraSpec, weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """`weights`: full module name -> (A, B)."""
        super().__init__()
        self.spec = spec
        self.scaling = spec.alpha / spec.rank
        self.modules_trained = tuple(weights)
        for module, (a, b) in weights.items():
            key = module.replace(".", "/")
            self.register_parameter(f"{key}/lora_A", nn.Parameter(a))
            self.register_parameter(f"{key}/lora_B", nn.Parameter(b))

    def pair(self, module: str) -> tuple[nn.Parameter, nn.Parameter] | None:
        """(A, B) of a module by its full name; None where the adapter leaves it alone."""
        key = module.replace(".", "/")
        a = self._parameters.get(f"{key}/lora_A")
        b = self._parameters.get(f"{key}/lora_B")
        return None if a is None or b is None else (a, b)


@dataclass(frozen=True)
class Segment:
    """The next `rows` entries of a batch's first dimension use `adapter` (None: the base)."""

    adapter: Adapter | None
    rows: int


class LoraState:
    """What all LoRA layers of one model share: the segments of the batch that runs now."""

    def __init__(self) -> None:
        self.segments: Sequence[Segment] = ()


class LoraLinear(nn.Module):
    """A frozen linear layer plus, for each segment of the batch, its adapter's low-rank part.

    With no active adapter it is the base layer and nothing more.
    """

    def __init__(self, base: nn.Linear, name: str, state: LoraState) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.state = state

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [rows, …, in] -> [rows, …, out], in the dtype of the base layer."""
        y = cast("torch.Tensor", self.base(x))
        segments = self.state.segments
        if not segments:
            return y
        if len(segments) == 1:
            _check_rows(segments, x)
            return self._one(segments[0].adapter, x, y)
        return self._several(segments, x, y)

    def _several(
        self, segments: Sequence[Segment], x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        _check_rows(segments, x)
        sizes = [segment.rows for segment in segments]
        parts = zip(segments, torch.split(x, sizes), torch.split(y, sizes), strict=True)
        return torch.cat([self._one(segment.adapter, xs, ys) for segment, xs, ys in parts])

    def _one(self, adapter: Adapter | None, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pair = adapter.pair(self.name) if adapter is not None else None
        if adapter is None or pair is None:
            return y
        a, b = pair
        low = functional.linear(functional.linear(x.to(a.dtype), a), b)
        return (y + low * adapter.scaling).to(y.dtype)


def target_modules(model: nn.Module) -> dict[str, ModuleKind]:
    """Full names of the linear layers that LoRA can reach, in module order, and their kind.

    Attention and MLP projections are known by their own name and their parent's, the output
    projection by `get_output_embeddings`. Embeddings are never among them.
    """
    output = _output_embeddings(model)
    found: dict[str, ModuleKind] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | LoraLinear):
            kind = "unembed" if module is output else _kind_of(name)
            if kind is not None:
                found[name] = kind
    return found


def _kind_of(name: str) -> ModuleKind | None:
    *parents, leaf = name.split(".")
    parent = parents[-1] if parents else ""
    if leaf in _ATTN and ("attn" in parent or "attention" in parent):
        return "attn"
    if leaf in _MLP and ("mlp" in parent or "feed_forward" in parent):
        return "mlp"
    return None


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    return cast("nn.Module | None", getter()) if getter is not None else None


def inject_lora(model: nn.Module) -> None:
    """Replace the target layers by `LoraLinear`; the model computes what it did before.

    Raises:
        RuntimeError: the model has LoRA layers already.
    """
    if hasattr(model, _STATE):
        raise RuntimeError("inject_lora was called on this model before")
    state = LoraState()
    for name in target_modules(model):
        parent_name, _, leaf = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        base = parent.get_submodule(leaf)
        assert isinstance(base, nn.Linear)
        setattr(parent, leaf, LoraLinear(base, name, state))
    setattr(model, _STATE, state)


@contextmanager
def use_adapters(model: nn.Module, segments: Sequence[Segment]) -> Iterator[None]:
    """Run the model's LoRA layers with `segments`, which cover the batch in order.

    Every layer called inside must get as many rows as the segments have together; for a call
    of the output projection on selected positions, give segments of positions.

    Raises:
        RuntimeError: `inject_lora` was not called on the model.
    """
    state: LoraState | None = getattr(model, _STATE, None)
    if state is None:
        raise RuntimeError("call inject_lora on this model first")
    before = state.segments
    filled = [segment for segment in segments if segment.rows]
    active = any(segment.adapter is not None for segment in filled)
    state.segments = filled if active else ()
    try:
        yield
    finally:
        state.segments = before


def _check_rows(segments: Sequence[Segment], x: torch.Tensor) -> None:
    total = sum(segment.rows for segment in segments)
    if total != x.shape[0]:
        raise ValueError(f"segments cover {total} rows, but the batch has {x.shape[0]}")
