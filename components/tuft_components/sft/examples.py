"""Encoded rows on this machine's disk, so that a dataset of any size fits.

Of each row two numbers are in memory; tokens are read when a batch needs them.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tuft_components.sft.encoding import Encoded


class Examples:
    """Add rows, then read them by number. `folder` is this object's own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tokens = (folder / "tokens").open("w+b")
        self._trained = (folder / "trained").open("w+b")
        self._ends = array("q", [0])
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._tokens.close()
        self._trained.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def digest(self) -> str:
        """Of all rows in order, their tokens and which of them are trained on."""
        return self._digest.hexdigest()

    def add(self, row: Encoded) -> None:
        tokens = np.asarray(row.tokens, dtype="<i4").tobytes()
        trained = np.asarray(row.trained, dtype=np.uint8).tobytes()
        self._tokens.write(tokens)
        self._trained.write(trained)
        self._ends.append(self._ends[-1] + len(row.tokens))
        self._digest.update(len(row.tokens).to_bytes(8, "little") + tokens + trained)

    def get(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Tokens int32 [N] and whether each is trained on."""
        begin, end = self._ends[number], self._ends[number + 1]
        self._tokens.seek(4 * begin)
        self._trained.seek(begin)
        tokens = np.frombuffer(self._tokens.read(4 * (end - begin)), dtype="<i4")
        trained = np.frombuffer(self._trained.read(end - begin), dtype=np.uint8)
        return tokens, trained.astype(np.bool_)


def held_out(rows: int, count: int, seed: int) -> tuple[Sequence[int], Sequence[int]]:
    """Numbers of the rows to train on and of `count` rows to measure on, chosen by the seed."""
    if not count:
        return range(rows), range(0)
    order = np.random.default_rng([seed, 1]).permutation(rows)
    return np.sort(order[count:]).tolist(), np.sort(order[:count]).tolist()


class Batches:
    """Which rows each step trains on: all of them once an epoch, shuffled by seed and epoch.

    The last batch of an epoch may be smaller. It depends on nothing but the numbers given here,
    so that a run that was killed goes on with the same batches.
    """

    def __init__(self, rows: Sequence[int], batch_size: int, seed: int) -> None:
        self._rows = rows
        self._size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.per_epoch = -(-len(rows) // batch_size)

    def rows_of(self, step: int) -> list[int]:
        """Numbers of the rows of step `step` (from 0)."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._rows))
            self._epoch = epoch
        begin = number * self._size
        return [self._rows[int(place)] for place in self._order[begin : begin + self._size]]
