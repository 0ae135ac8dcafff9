"""Attention over our own cache, plugged into transformers under the name ATTENTION.

The model's layers call `attention` with the new tokens' queries, keys and values; which
step runs now, and so where older keys and values are, is in `current_step`. Queries of the
heads that share a key head (grouped-query attention) go in as one longer query, so that keys
are never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tuft.sampling.cache import Prefix, Slab

ATTENTION = "tuft_sampling"


class Step(Protocol):
    """One forward pass. Queries [rows, heads, n, dim]; keys and values with key heads."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Keep the new keys and values; attention output [rows, heads, n, value_dim]."""
        ...


_current: ContextVar[Step] = ContextVar("tuft_sampling_step")


@contextmanager
def current_step(step: Step) -> Iterator[None]:
    token = _current.set(step)
    try:
        yield
    finally:
        _current.reset(token)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  # the interface's; steps make their own
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; returns [rows, n, heads, value_dim].

    What other keywords may ask for (dropout apart, which is 0 here) is found out by the
    engine's check against the model's own attention when it starts.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # nn.Module's attributes are untyped
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _current.get().attend(layer, query, key, value, scale, sliding_window)
    return out.transpose(1, 2), None


class PrefillStep:
    """New tokens of prompts, padded on the right: rows of `counts[i]` real ones.

    Where all rows begin their prompts, padding needs no mask: it comes after all real tokens of
    its row, and they look back only. Rows that continue attend one by one, each to its own past.
    """

    def __init__(self, prefixes: Sequence[Prefix], counts: Sequence[int]) -> None:
        self._prefixes = prefixes
        self._counts = counts
        self._all_begin = all(prefix.filled == 0 for prefix in prefixes)
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        for row, (prefix, count) in enumerate(zip(self._prefixes, self._counts, strict=True)):
            prefix.write(layer, k[row, :, :count], v[row, :, :count])
        length = q.shape[2]
        if self._all_begin and (window is None or window >= length):
            k, v = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1])
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        out = q.new_zeros(*q.shape[:-1], v.shape[-1])
        for row, (prefix, count) in enumerate(zip(self._prefixes, self._counts, strict=True)):
            keys, values = (x[None, :, : prefix.filled + count] for x in prefix.layer(layer))
            out[row, :, :count] = scaled_dot_product_attention(
                q[row : row + 1, :, :count],
                _repeat_heads(keys, q.shape[1]),
                _repeat_heads(values, q.shape[1]),
                attn_mask=self._mask(prefix.filled, count, window, q.device),
                scale=scale,
            )[0]
        return out

    def _mask(self, past: int, count: int, window: int | None, device: torch.device) -> Tensor:
        key = (past, count, window)
        if key not in self._masks:
            self._masks[key] = _causal(past, past + count, window, device)
        return self._masks[key]


@dataclass
class SlabStep:
    """A slab's part in a decode step. `order[i]`: which batch row is the slab's row i."""

    slab: Slab
    order: Tensor | None
    """int64 [rows]; None where the batch is this slab in its order."""
    rows: Tensor
    """int64: 0, 1, … of the slab's rows."""
    positions: Tensor
    """int64 [rows]: where each row's new token goes, which is its length before the step."""
    length: int
    """Positions to look at: the longest row, the new token included."""
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(cls, slab: Slab, order: list[int], batch: int, device: torch.device) -> SlabStep:
        alone = len(order) == batch and order == list(range(batch))
        return cls(
            slab=slab,
            order=None if alone else torch.tensor(order, device=device),
            rows=torch.arange(len(slab.rows), device=device),
            positions=torch.tensor([row.length for row in slab.rows], device=device),
            length=slab.longest + 1,
        )

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """[rows of the slab, heads, 1, value_dim], in the slab's order."""
        if self.order is not None:
            q, k, v = q[self.order], k[self.order], v[self.order]
        keys, values = self.slab.keys[layer], self.slab.values[layer]
        keys[self.rows, :, self.positions] = k[:, :, 0]
        values[self.rows, :, self.positions] = v[:, :, 0]
        keys, values = keys[: len(q), :, : self.length], values[: len(q), :, : self.length]
        key_heads = keys.shape[1]
        grouped = q.reshape(len(q), key_heads, -1, q.shape[-1])
        out = scaled_dot_product_attention(
            grouped, keys, values, attn_mask=self._mask(window, q.dtype), scale=scale
        )
        return out.reshape(len(q), q.shape[1], 1, -1)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive [rows, 1, 1, length]; None where every row sees all of it."""
        if window not in self._masks:
            index = torch.arange(self.length, device=self.positions.device)
            last = self.positions[:, None]
            hidden = index > last
            if window is not None:
                hidden |= index <= last - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None]
            self._masks[window] = mask if bool(hidden.any()) else None
        return self._masks[window]


class DecodeStep:
    """One new token for every running row; each row looks at its own past only."""

    def __init__(self, slabs: Sequence[SlabStep]) -> None:
        self._slabs = slabs

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        if len(self._slabs) == 1 and self._slabs[0].order is None:
            return self._slabs[0].attend(layer, q, k, v, scale, window)
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        for part in self._slabs:
            out[part.order] = part.attend(layer, q, k, v, scale, window)
        return out


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """[rows, key_heads, n, dim] -> [rows, heads, n, dim]."""
    times = heads // x.shape[1]
    return x if times == 1 else x.repeat_interleave(times, dim=1)


def _causal(past: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """What each new position may see, bool [length - past, length]."""
    query = torch.arange(past, length, device=device)[:, None]
    key = torch.arange(length, device=device)
    visible = key <= query
    if window is not None:
        visible &= key > query - window
    return visible
