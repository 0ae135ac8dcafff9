"""Keys and values of what the model has read: one `Prefix` a prompt, one `Slab` row a sequence.

A slab holds sequences of about the same length in one rectangle per layer, position p of a
sequence at index p, so that one attention call serves all of them. Capacities double from
slab to slab: a sequence that outgrows its slab is moved on, and a long one makes no short one
pay for its length. Rows are dense: a row that ends is replaced by the last one.

Whatever a row does not own is finite (zeros, or another row's finite past): masked cells are
multiplied by 0, and 0 times NaN is NaN. So rows are zeroed when they end, which also keeps
one tenant's values out of the next one's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

SMALLEST_CAPACITY = 64
# Slabs grow and shrink with about this many positions to spare.
_SPARE_CELLS = 2048


class Prefix:
    """Keys and values of one prompt, layer by layer: [heads, length, head_dim]."""

    def __init__(self, length: int, layers: int) -> None:
        self.length = length
        self.filled = 0
        """Positions that all layers have."""
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Append `keys` and `values` [heads, n, head_dim] after the filled positions."""
        stop = self.filled + keys.shape[1]
        for store, new in ((self._keys, keys), (self._values, values)):
            held = store[layer]
            if held is None:
                held = new.new_empty(new.shape[0], self.length, new.shape[2])
                store[layer] = held
            held[:, self.filled : stop] = new

    def copy(self, other: Prefix, count: int) -> None:
        """Begin with the first `count` positions of another prompt."""
        for layer in range(len(self._keys)):
            keys, values = other.layer(layer)
            self.write(layer, keys[:, :count], values[:, :count])
        self.filled += count

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self._keys[layer], self._values[layer]
        assert keys is not None, "no chunk was read yet"
        assert values is not None
        return keys, values


@dataclass(eq=False)
class CacheRow:
    """Where a running sequence's keys and values are."""

    length: int
    slab: Slab = field(init=False)
    index: int = field(init=False)


class _Source(Protocol):
    def layer(self, layer: int) -> tuple[Tensor, Tensor]: ...


class Slab:
    """Sequences of up to `capacity` positions: per layer [rows, heads, capacity, head_dim]."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[CacheRow] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def longest(self) -> int:
        return max(row.length for row in self.rows)

    def add(self, row: CacheRow, source: _Source, layers: int) -> None:
        """Append a row and copy its `row.length` positions from `source` [heads, >=length, dim]."""
        self._reserve(len(self.rows) + 1, source, layers)
        row.slab, row.index = self, len(self.rows)
        self.rows.append(row)
        for layer in range(layers):
            keys, values = source.layer(layer)
            self.keys[layer][row.index, :, : row.length] = keys[:, : row.length]
            self.values[layer][row.index, :, : row.length] = values[:, : row.length]

    def remove(self, row: CacheRow) -> None:
        """Take a row out; the last row takes its place."""
        last = self.rows.pop()
        reach = max(row.length, last.length)
        for tensor in (*self.keys, *self.values):
            if last is not row:
                tensor[row.index, :, :reach] = tensor[last.index, :, :reach]
            tensor[last.index, :, : last.length].zero_()
        if last is not row:
            self.rows[row.index] = last
            last.index = row.index
        self._shrink()

    def _reserve(self, rows: int, source: _Source, layers: int) -> None:
        if not self.keys:
            like = [source.layer(layer) for layer in range(layers)]
            self.keys = [self._empty(keys, rows) for keys, _ in like]
            self.values = [self._empty(values, rows) for _, values in like]
        held = self.keys[0].shape[0]
        if rows > held:
            self._resize(rows + min(held, _SPARE_CELLS // self.capacity))

    def _shrink(self) -> None:
        if self.keys[0].shape[0] > 2 * len(self.rows) + _SPARE_CELLS // self.capacity:
            self._resize(len(self.rows))

    def _resize(self, rows: int) -> None:
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._empty(old[0], rows)
                tensors[layer][: len(self.rows)] = old[: len(self.rows)]

    def _empty(self, like: Tensor, rows: int) -> Tensor:
        """Zeros for `rows` sequences, with the heads, size and dtype of `like` [heads, n, dim]."""
        return like.new_zeros(rows, like.shape[0], self.capacity, like.shape[2])


@dataclass(frozen=True)
class _RowSource:
    slab: Slab
    index: int

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.slab.keys[layer][self.index], self.slab.values[layer][self.index]


class Cache:
    """All running sequences. Cells are counted in positions of all layers together."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._slabs: dict[int, Slab] = {}

    def add(self, prefix: Prefix) -> CacheRow:
        """A new sequence that begins with all of `prefix`."""
        row = CacheRow(length=prefix.length)
        self._slab_for(prefix.length + 1).add(row, prefix, self._layers)
        return row

    def make_room(self, row: CacheRow) -> bool:
        """See that one more position fits; True where the row had to move to another slab."""
        slab = row.slab
        if row.length < slab.capacity:
            return False
        source = _RowSource(slab, row.index)
        moved = CacheRow(length=row.length)
        self._slab_for(row.length + 1).add(moved, source, self._layers)
        slab.remove(row)
        self._drop_if_empty(slab)
        row.slab, row.index = moved.slab, moved.index
        row.slab.rows[row.index] = row
        return True

    def remove(self, row: CacheRow) -> None:
        slab = row.slab
        slab.remove(row)
        self._drop_if_empty(slab)

    @property
    def slabs(self) -> Sequence[Slab]:
        return list(self._slabs.values())

    def _drop_if_empty(self, slab: Slab) -> None:
        if not slab.rows:
            del self._slabs[slab.capacity]

    def _slab_for(self, length: int) -> Slab:
        capacity = capacity_for(length)
        return self._slabs.setdefault(capacity, Slab(capacity))


def capacity_for(length: int) -> int:
    """Positions that a sequence of `length` occupies: the capacity of its slab."""
    capacity = SMALLEST_CAPACITY
    while capacity < length:
        capacity *= 2
    return capacity
