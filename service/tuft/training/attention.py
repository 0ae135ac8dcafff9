"""Attention over rows that lie one after the other in one sequence, none of them seeing another.

Plugged into transformers under the name ATTENTION. Rows of similar length are attended together,
as a rectangle in which the shorter ones are filled up with copies of their own last token: those
come after all real tokens of their row, which look back only, so no mask is needed, and nothing
of one row is ever multiplied with anything of another's. (A mask would not do: 0 * NaN is NaN.)
A GPU in half precision has a kernel for rows of any lengths, which needs no rectangles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "tuft_training"

_HALF = (torch.bfloat16, torch.float16)
# A rectangle is at least this full (an estimate): fuller ones mean more calls of the kernel.
_FULL = 0.6


@dataclass(frozen=True)
class Rectangle:
    """`count` rows of up to `length` tokens; `index` int64 [count * length], positions."""

    index: Tensor
    count: int
    length: int


class Layout:
    """Which rows are attended together, for rows of these lengths, in this order."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.rows, self.tokens = len(lengths), sum(lengths)
        self.even = len(set(lengths)) == 1
        """All rows are of one length: the sequence is a rectangle as it is."""
        self.longest = max(lengths)
        self.rectangles: list[Rectangle] = []
        if device.type == "cuda":
            ends = np.cumsum([0, *lengths]).astype(np.int32)
            self.ends = torch.from_numpy(ends).to(device)
        if self.even:
            return
        starts = np.cumsum([0, *lengths[:-1]])
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        inverse = np.empty(self.tokens, dtype=np.int64)
        offset = 0
        while order:
            longest = lengths[order[0]]
            members = [row for row in order if lengths[row] >= _FULL * longest]
            order = order[len(members) :]
            steps = np.arange(longest)
            index = []
            for row in members:
                index.append(starts[row] + np.minimum(steps, lengths[row] - 1))
                inverse[starts[row] : starts[row] + lengths[row]] = offset + steps[: lengths[row]]
                offset += longest
            where = torch.from_numpy(np.concatenate(index)).to(device)
            self.rectangles.append(Rectangle(where, len(members), longest))
        self.inverse = torch.from_numpy(inverse).to(device)


# No context variable: with checkpointing, a GPU's backward pass asks from a thread of its own.
_layouts: list[Layout] = []


@contextmanager
def use_layout(layout: Layout) -> Iterator[None]:
    """Attend as `layout` says, in forward and (with checkpointing) backward passes inside."""
    _layouts.append(layout)
    try:
        yield
    finally:
        _layouts.pop()


def attention(
    module: nn.Module,  # noqa: ARG001  # the interface's
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, heads, T, dim] -> [1, T, heads, value_dim].

    What other keywords may ask for is found out by the comparison with the model's own
    attention when the trainer starts.
    """
    layout = _layouts[-1]
    # [T, heads, dim], as the projections made them.
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if q.is_cuda and q.dtype in _HALF:
        return _attend_any_lengths(q, k, v, layout, scaling, sliding_window).unsqueeze(0), None
    if layout.even:
        return _attend(q, k, v, layout.rows, scaling, sliding_window).unsqueeze(0), None
    outs = [
        _attend(
            q.index_select(0, each.index),
            k.index_select(0, each.index),
            v.index_select(0, each.index),
            each.count,
            scaling,
            sliding_window,
        )
        for each in layout.rectangles
    ]
    return torch.cat(outs).index_select(0, layout.inverse).unsqueeze(0), None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, rows: int, scale: float | None, window: int | None
) -> Tensor:
    """Causal attention within each of `rows` rows of equal length: [rows * length, heads, dim]."""
    length = q.shape[0] // rows
    mask = None
    if window is not None and window < length:
        mask = _window(length, window, q.device)
    q, k, v = (
        tensor.reshape(rows, length, *tensor.shape[1:]).transpose(1, 2) for tensor in (q, k, v)
    )
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).reshape(rows * length, out.shape[1], out.shape[3])


def _attend_any_lengths(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, window: int | None
) -> Tensor:
    """The same by FlashAttention's kernel for variable lengths: [tokens, heads, dim]."""
    out = varlen_attn(
        q,
        k,
        v,
        layout.ends,
        layout.ends,
        layout.longest,
        layout.longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(out, Tensor)
    return out


def _window(length: int, window: int, device: torch.device) -> Tensor:
    """Sliding-window causal mask, bool [length, length]."""
    query = torch.arange(length, device=device)[:, None]
    key = torch.arange(length, device=device)
    return (key <= query) & (key > query - window)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)
