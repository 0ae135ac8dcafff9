"""The arithmetic of several adapters on the segments of one batch, forward and backward.

All products are of one segment's own rows and one adapter's weights: nothing of one tenant is
ever multiplied with anything of another's, not even with zero, since 0 * NaN is NaN. Segments of
one shape go through batched products, which keep them apart as well and cost fewer calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class LoraLayer(NamedTuple):
    """One layer's part of an adapter: float32 views `a` [rank, in] and `b` [out, rank].

    `a_t` and `b_t` are their transposes. `grad_a` and `grad_b`, of the same shapes, are views of
    the adapter's gradient, None before the first `begin_gradient`.
    """

    a: Tensor
    b: Tensor
    a_t: Tensor
    b_t: Tensor
    grad_a: Tensor | None = None
    grad_b: Tensor | None = None


class Trains(Protocol):
    """Whether a backward pass adds to the gradients; it may change up to then."""

    trains: bool


class Part(NamedTuple):
    """What one adapter adds to its rows of a layer's output."""

    layer: LoraLayer
    scaling: float
    segment: Trains


@dataclass(frozen=True)
class Parts:
    """`sizes` of all segments in entries of the flattened batch, and the part of each."""

    sizes: list[int]
    parts: list[Part | None]

    @cached_property
    def even(self) -> bool:
        """Whether there are several parts, all of one shape."""
        first = self.parts[0]
        if len(self.parts) < 2 or first is None:
            return False
        shape, scaling = first.layer.a.shape, first.scaling
        return min(self.sizes) == max(self.sizes) and all(
            part is not None and part.layer.a.shape == shape and part.scaling == scaling
            for part in self.parts
        )


def add(x: Tensor, y: Tensor, parts: Parts) -> list[Tensor]:
    """y += scaling * (x A^T) B^T a part, in place; what `go_back` needs of it.

    Args:
        x: […, in]. y: […, out], contiguous.
    """
    wide, flat_y = _flat(x).float(), y.view(-1, y.shape[-1])
    if parts.even:
        return _add_even(wide, flat_y, [part for part in parts.parts if part is not None])
    lows = []
    xs, ys = _split(wide, parts.sizes), _split(flat_y, parts.sizes)
    for part, x_part, y_part in zip(parts.parts, xs, ys, strict=True):
        if part is None:
            continue
        low = x_part @ part.layer.a_t
        if y_part.dtype == low.dtype:
            y_part.addmm_(low, part.layer.b_t, alpha=part.scaling)
        else:
            y_part.add_((low @ part.layer.b_t).mul_(part.scaling))
        lows.append(low)
    return lows


def go_back(
    x: Tensor, kept: Sequence[Tensor], grad: Tensor, parts: Parts, *, needs_x: bool
) -> Tensor | None:
    """Add to the gradients of A and B; that of x, in its shape and dtype, where it is needed.

    Rows that don't train end no loss, or one that is not finite: nothing goes back from them.

    Args:
        x: as `add` had it.
        kept: what `add` gave.
        grad: of the output, […, out].
    """
    wide_x, wide_grad = _flat(x).float(), _flat(grad).float()
    if parts.even:
        even = [part for part in parts.parts if part is not None]
        flat_x = _go_back_even(wide_x, kept, wide_grad, even, needs_x=needs_x)
        return None if flat_x is None else flat_x.view(x.shape).to(x.dtype)
    grad_x = _memory_for_grad_x(x, parts) if needs_x else None
    grad_xs = [None] * len(parts.sizes)
    entries = zip(
        parts.parts,
        _split(wide_x, parts.sizes),
        _split(wide_grad, parts.sizes),
        _split(wide_grad.T, parts.sizes, dim=1),
        grad_xs if grad_x is None else _split(_flat(grad_x), parts.sizes),
        strict=True,
    )
    lows = iter(kept)
    for part, x_part, g, g_t, grad_x_part in entries:
        low = next(lows) if part is not None else None
        if part is not None and low is not None and part.segment.trains:
            _go_back_one(part, x_part, low, g, g_t, grad_x_part)
    return grad_x


def _go_back_one(
    part: Part, x: Tensor, low: Tensor, g: Tensor, g_t: Tensor, grad_x: Tensor | None
) -> None:
    grad_a, grad_b = _gradients(part)
    grad_b.addmm_(g_t, low, alpha=part.scaling)
    back = g @ part.layer.b
    back.mul_(part.scaling)
    grad_a.addmm_(back.T, x)
    if grad_x is not None and grad_x.dtype == back.dtype:
        torch.mm(back, part.layer.a, out=grad_x)
    elif grad_x is not None:
        grad_x.copy_(back @ part.layer.a)


def _add_even(x: Tensor, y: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    count, scaling = len(parts), parts[0].scaling
    a = torch.stack([part.layer.a for part in parts])
    b = torch.stack([part.layer.b for part in parts])
    low = torch.bmm(x.view(count, -1, x.shape[1]), a.mT)
    ys = y.view(count, -1, y.shape[1])
    if y.dtype == low.dtype:
        ys.baddbmm_(low, b.mT, alpha=scaling)
    else:
        ys.add_(torch.bmm(low, b.mT).mul_(scaling))
    return [a, b, low]


def _go_back_even(
    x: Tensor, kept: Sequence[Tensor], grad: Tensor, parts: Sequence[Part], *, needs_x: bool
) -> Tensor | None:
    a, b, low = kept
    count, scaling = len(parts), parts[0].scaling
    g = grad.view(count, -1, grad.shape[1])
    grad_b = torch.bmm(g.mT, low)
    back = torch.bmm(g, b).mul_(scaling)
    grad_a = torch.bmm(back.mT, x.view(count, -1, x.shape[1]))
    chosen = [index for index, part in enumerate(parts) if part.segment.trains]
    if chosen:
        mine = [_gradients(parts[index]) for index in chosen]
        torch._foreach_add_([a for a, _ in mine], [grad_a[index] for index in chosen])
        torch._foreach_add_([b for _, b in mine], [grad_b[i] for i in chosen], alpha=scaling)
    if not needs_x:
        return None
    grad_x = torch.bmm(back, a)
    for index, part in enumerate(parts):
        if not part.segment.trains:
            grad_x[index].zero_()
    return grad_x


def _gradients(part: Part) -> tuple[Tensor, Tensor]:
    grad_a, grad_b = part.layer.grad_a, part.layer.grad_b
    assert grad_a is not None, "begin_gradient was not called"
    assert grad_b is not None
    return grad_a, grad_b


def _memory_for_grad_x(x: Tensor, parts: Parts) -> Tensor:
    """Memory for the gradient of x: zero wherever no part will write."""
    whole = all(part is not None and part.segment.trains for part in parts.parts)
    make = torch.empty if whole else torch.zeros
    return make(x.shape, dtype=x.dtype, device=x.device)


def _split(x: Tensor, sizes: list[int], dim: int = 0) -> Sequence[Tensor]:
    return (x,) if len(sizes) == 1 else torch.split(x, sizes, dim)


def _flat(x: Tensor) -> Tensor:
    """[entries, features] of any batch shape."""
    return x.reshape(-1, x.shape[-1])
