"""A micro-batch as flat arrays: the tokens of all rows one after the other, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft.contracts.losses import LOSSES
from tuft.contracts.wire import Row
from tuft.training.commands import MicroBatch, RowGroup

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


class PackedGroup:
    """One group's rows; K columns of targets, the most of any of its rows, 1 where they are [N]."""

    def __init__(self, group: RowGroup, start: int) -> None:
        """`start`: position of its first token in the batch."""
        self.group = group
        self.lengths = [len(row.tokens) for row in group.rows]
        self.start = start
        self.stop = start + sum(self.lengths)
        columns = [_columns(row) for row in group.rows]
        self.width = max(columns)
        names = dict.fromkeys(name for row in group.rows for name in row.inputs)
        self.inputs = {
            name: self._column(name, np.float32) for name in names if name != "target_tokens"
        }
        # What a row lacks of the widest one's columns.
        self.missing: Flags | None = None
        if min(columns) < self.width:
            counts = np.repeat(columns, self.lengths)
            self.missing = np.arange(self.width)[None, :] >= counts[:, None]

    @cached_property
    def targets(self) -> Ints:
        """[positions, K]; token 0 where a row has fewer columns."""
        return self._column("target_tokens", np.int64)

    def trains(self) -> Flags:
        """[positions]: whether the loss may have a gradient there."""
        spec = LOSSES.get(self.group.loss_fn)
        factor = None if spec is None or spec.factor is None else self.inputs.get(spec.factor)
        size = self.stop - self.start
        if not self.group.backward:
            return np.zeros(size, dtype=np.bool_)
        # NaN counts: it must be seen in the loss.
        return np.ones(size, dtype=np.bool_) if factor is None else (factor != 0).any(axis=1)

    def row_sums(self, values: Floats) -> list[float]:
        """Sum of `values` [positions] over each row, in float64."""
        starts = np.cumsum([0, *self.lengths[:-1]])
        return [float(each) for each in np.add.reduceat(values.astype(np.float64), starts)]

    def rows_of(self, values: Floats) -> list[Floats]:
        """`values` [positions, K] in the shape of each row's target_tokens."""
        pieces = np.split(values, np.cumsum(self.lengths)[:-1])
        shapes = [row.inputs["target_tokens"].shape for row in self.group.rows]
        return [
            piece[:, : shape[1]] if len(shape) == 2 else piece[:, 0]
            for piece, shape in zip(pieces, shapes, strict=True)
        ]

    def _column(self, name: str, dtype: type[Any]) -> npt.NDArray[Any]:
        arrays = [
            # Rows of one group need not all have `weights`; absent ones mean 1.
            row.inputs[name] if name in row.inputs else np.ones_like(row.inputs["target_tokens"])
            for row in self.group.rows
        ]
        wide = [array.reshape(len(array), -1) for array in arrays]
        width = max(array.shape[1] for array in wide)
        if any(array.shape[1] < width for array in wide):
            wide = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in wide]
        return np.concatenate(wide).astype(dtype)


class PackedBatch:
    """All groups of a micro-batch, in order."""

    def __init__(self, micro_batch: MicroBatch) -> None:
        self.groups: list[PackedGroup] = []
        start = 0
        for group in micro_batch:
            self.groups.append(PackedGroup(group, start))
            start = self.groups[-1].stop
        self.size = start
        self.lengths = [length for group in self.groups for length in group.lengths]
        rows = [row for group in micro_batch for row in group.rows]
        self.tokens: Ints = np.concatenate([row.tokens for row in rows]).astype(np.int64)
        self.positions: Ints = np.concatenate([np.arange(length) for length in self.lengths])

    def group_sizes(self, positions: Ints) -> list[int]:
        """How many of the ascending `positions` are of each group."""
        bounds = np.searchsorted(positions, [group.stop for group in self.groups])
        return [int(size) for size in np.diff(bounds, prepend=0)]


def tokens_of(groups: Sequence[RowGroup]) -> int:
    return sum(len(row.tokens) for group in groups for row in group.rows)


def _columns(row: Row) -> int:
    shape = row.inputs["target_tokens"].shape
    return int(shape[1]) if len(shape) == 2 else 1
