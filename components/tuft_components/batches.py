"""`tuft.batch/1`: what an update trains on, one row a transition, with its rewards judged.

Columns of `tuft.trajectories/3` that say which transition it is and what was sampled, and
`reward` (of the whole episode), `advantages` float32 [T] and `mask` float32 [T] over the
completion's tokens (1: train on it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from tuft_components.errors import BadData
from tuft_components.steps import Dataset
from tuft_components.tables import TableSchema, read_table, write_table

BATCH = TableSchema(
    "tuft.batch/1",
    pa.schema(
        [
            ("iteration", pa.int64()),
            ("group_id", pa.int64()),
            ("sample", pa.int64()),
            ("turn", pa.int64()),
            ("policy", pa.string()),
            ("policy_version", pa.int64()),
            ("prompt_tokens", pa.list_(pa.int32())),
            ("completion_tokens", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            ("reward", pa.float32()),
            ("advantages", pa.list_(pa.float32())),
            ("mask", pa.list_(pa.float32())),
        ]
    ),
)


@dataclass(frozen=True)
class BatchRow:
    iteration: int
    group_id: int
    sample: int
    turn: int
    policy: str
    policy_version: int
    prompt_tokens: Sequence[int]
    completion_tokens: Sequence[int]
    logprobs: Sequence[float]
    reward: float
    advantages: Sequence[float]
    mask: Sequence[float]

    @property
    def key(self) -> tuple[int, int, int, int]:
        return (self.iteration, self.group_id, self.sample, self.turn)


def write_batch(
    uri: str, rows: Iterable[BatchRow], metadata: Mapping[str, str | int | float]
) -> Dataset:
    return write_table(uri, BATCH, [asdict(row) for row in rows], metadata)


def read_batch(uri: str) -> list[BatchRow]:
    """Rows in canonical order, whatever their order in the file.

    Raises:
        BadData: another schema, no rows, a row that is there twice, lists whose lengths differ,
            an empty prompt, or a value that is not finite.
    """
    rows = sorted((BatchRow(**row) for row in read_table(uri, BATCH)), key=lambda row: row.key)
    if not rows:
        raise BadData(f"{uri} has no rows: there is nothing to train on")
    for before, row in zip([None, *rows], rows, strict=False):
        where = f"{uri}: row (iteration, group, sample, turn) {row.key}"
        if before is not None and before.key == row.key:
            raise BadData(f"{where} is there twice")
        if not row.prompt_tokens:
            raise BadData(f"{where} has an empty prompt: the first token predicts nothing")
        lengths = {
            name: len(getattr(row, name))
            for name in ("completion_tokens", "logprobs", "advantages", "mask")
        }
        if len(set(lengths.values())) > 1:
            raise BadData(f"{where} has lists of different lengths: {lengths}")
        for name in ("logprobs", "advantages", "mask"):
            if not np.isfinite(np.asarray(getattr(row, name), dtype=np.float32)).all():
                raise BadData(f"{where} has a value in {name} that is not finite")
    return rows
