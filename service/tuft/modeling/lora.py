"""LoRA layers that serve the rows of several adapters in one batch.

Nothing here knows how adapters are made, stored or trained: see `tuft.modeling.adapters`.
An adapter is one flat parameter, so that optimizers, reductions over ranks and moves between
devices handle one tensor; the layers work on views of it. Their gradients are written by
`_AddLora` into views of one flat gradient: autograd sees no parameter of any adapter, which
would cost it more than the arithmetic of small ranks does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tuft.contracts.records import LoraSpec
from tuft.modeling import lora_parts
from tuft.modeling.lora_parts import LoraLayer, Part, Parts

ModuleKind = Literal["attn", "mlp", "unembed"]

_ATTN = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"})
_MLP = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj"})
_STATE = "_tuft_lora_state"


Layout = tuple[tuple[str, torch.Size], ...]
"""Names and shapes of an adapter's weights, as `Adapter.layout`."""


class Adapter(nn.Module):
    """The LoRA weights of one training run or policy, and nothing else.

    Per module `lora_A` float32 [rank, in] and `lora_B` float32 [out, rank], as PEFT has them;
    the module adds `alpha / rank * lora_B @ lora_A` to the base layer. All of them are views
    of the one parameter, `flat` float32 [n], module after module, A before B.
    """

    def __init__(self, spec: LoraSpec, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """`weights`: full module name -> (A, B), copied."""
        super().__init__()
        self.spec = spec
        self.scaling = spec.alpha / spec.rank
        self.modules_trained = tuple(weights)
        self._shapes = {
            f"{module.replace('.', '/')}/{name}": tensor.shape
            for module, pair in weights.items()
            for name, tensor in zip(("lora_A", "lora_B"), pair, strict=True)
        }
        parts = [tensor.detach().reshape(-1) for pair in weights.values() for tensor in pair]
        self.flat = nn.Parameter(torch.cat(parts).float())
        self._gradient: Tensor | None = None
        self._layers: dict[str, LoraLayer] = {}
        self._bound: tuple[int, int] = (0, 0)

    @property
    def layout(self) -> Layout:
        """Names and shapes in `flat`: adapters with the same may take each other's place."""
        return tuple(self._shapes.items())

    def tensors(self) -> dict[str, Tensor]:
        """Views of the weights by name: `{module}/lora_A`, with `/` for the module's dots."""
        return self.views_of(self.flat.detach())

    def gradients(self) -> dict[str, Tensor]:
        """Views of what was accumulated, by the same names; empty where nothing was."""
        return {} if self.flat.grad is None else self.views_of(self.flat.grad)

    def views_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Any tensor [n] that has an entry a weight, an optimizer's moment say, by name."""
        pieces = torch.split(flat, [shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.view(shape) for (name, shape), piece in named}

    def layers(self) -> Mapping[str, LoraLayer]:
        """Views for the forward pass, by full module name."""
        grad = self._gradient
        # DeepSpeed may give the parameter other memory.
        now = (self.flat.data_ptr(), 0 if grad is None else grad.data_ptr())
        if now != self._bound:
            weights = iter(self.tensors().values())
            grads = iter(() if grad is None else self.views_of(grad).values())
            for module in self.modules_trained:
                a, b = next(weights), next(weights)
                gradients = next(grads, None), next(grads, None)
                self._layers[module] = LoraLayer(a, b, a.T, b.T, *gradients)
            self._bound = now
        return self._layers

    def begin_gradient(self) -> None:
        """See that `flat.grad` is there to add to; zero where nothing was accumulated yet."""
        if self.flat.grad is not None and self.flat.grad is self._gradient:
            return
        if self._gradient is None or self._gradient.device != self.flat.device:
            self._gradient = torch.zeros_like(self.flat.detach())
        elif self.flat.grad is None:
            self._gradient.zero_()
        if self.flat.grad is not None:
            self._gradient.copy_(self.flat.grad)
        self.flat.grad = self._gradient

    def forget_gradient(self) -> None:
        """Drop what was accumulated; the memory is kept for the next gradient."""
        self.flat.grad = None


@dataclass
class Segment:
    """The next `rows` rows of a batch use `adapter` (None: the base).

    Rows are entries of the first dimension, or, where all segments together have as many, of
    all dimensions but the last: a batch [1, tokens, …] has segments of tokens.
    """

    adapter: Adapter | None
    rows: int
    trains: bool = True
    """Whether a backward pass adds to the adapter's gradient. It may be changed up to then."""


class LoraState:
    """What all LoRA layers of one model share: the segments of the batch that runs now."""

    def __init__(self) -> None:
        self.segments: Sequence[Segment] = ()
        self.layers: Sequence[Mapping[str, LoraLayer] | None] = ()
        self.rows = 0
        # An input that asks for a gradient, so that autograd calls `_AddLora.backward`.
        self.anchor = torch.zeros((), requires_grad=True)


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
    def weight(self) -> Tensor:
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """`x` […, in] -> […, out], in the dtype of the base layer."""
        y = cast("Tensor", self.base(x))
        if not self.state.segments:
            return y
        parts = self._parts(x.shape)
        if not any(parts.parts):
            return y
        if torch.is_grad_enabled():
            # torch leaves `apply` untyped.
            out = _AddLora.apply(x, y, self.state.anchor, parts)  # type: ignore[no-untyped-call]
            return cast("Tensor", out)
        lora_parts.add(x, y, parts)
        return y

    def _parts(self, shape: torch.Size) -> Parts:
        rows, entries = self.state.rows, shape[:-1].numel()
        if rows not in (entries, shape[0]):
            raise ValueError(f"segments cover {rows} rows, but the batch has {shape[0]}")
        parts: list[Part | None] = []
        for segment, layers in zip(self.state.segments, self.state.layers, strict=True):
            layer = layers.get(self.name) if layers is not None else None
            if layer is None or segment.adapter is None:
                parts.append(None)
            else:
                parts.append(Part(layer, segment.adapter.scaling, segment))
        return Parts([each.rows * entries // rows for each in self.state.segments], parts)


class _AddLora(torch.autograd.Function):
    """y + scaling * (x A^T) B^T a part, in place; its backward writes the gradients of A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, anchor: Tensor, parts: Parts) -> Tensor:  # noqa: ARG004
        ctx.parts = parts
        ctx.save_for_backward(x, *lora_parts.add(x, y, parts))
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, *kept = ctx.saved_tensors
        grad_x = lora_parts.go_back(x, kept, grad, ctx.parts, needs_x=ctx.needs_input_grad[0])
        return grad_x, grad, None, None


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

    Every layer called inside must get as many rows as the segments have together; for a call of the output projection on selected positions, give segments of
    positions. A backward pass with activation checkpointing belongs inside, too. Before a
    backward pass, call `begin_gradient` on the adapters that train.

    Raises:
        RuntimeError: `inject_lora` was not called on the model.
    """
    state: LoraState | None = getattr(model, _STATE, None)
    if state is None:
        raise RuntimeError("call inject_lora on this model first")
    before = state.segments, state.layers, state.rows
    filled = [segment for segment in segments if segment.rows]
    if all(segment.adapter is None for segment in filled):
        filled = []
    state.segments = filled
    state.layers = [each.adapter.layers() if each.adapter else None for each in filled]
    state.rows = sum(segment.rows for segment in filled)
    try:
        yield
    finally:
        state.segments, state.layers, state.rows = before
