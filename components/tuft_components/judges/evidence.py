"""`tuft.judgements/1`: what a judge was asked and what it said, a row for each answer.

docs/data.md tells the columns to those who read the files with other tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from tuft_components.steps import Dataset
from tuft_components.tables import TableSchema, read_table, write_table

JUDGEMENTS = TableSchema(
    "tuft.judgements/1",
    pa.schema(
        [
            ("iteration", pa.int64()),
            ("group_id", pa.int64()),
            ("sample", pa.int64()),
            ("other", pa.int64()),
            ("criterion", pa.string()),
            ("attempt", pa.int64()),
            ("judge", pa.string()),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("score", pa.float64()),
            ("source", pa.string()),
            ("error", pa.string()),
            ("tokens", pa.int64()),
        ]
    ),
)


@dataclass(frozen=True)
class Judgement:
    iteration: int
    group_id: int
    sample: int
    other: int | None
    criterion: str
    attempt: int
    judge: str
    question: str
    answer: str
    score: float | None
    source: str
    error: str
    tokens: int


def write_judgements(
    uri: str, rows: Sequence[Judgement], metadata: Mapping[str, str | int | float]
) -> Dataset:
    return write_table(uri, JUDGEMENTS, [_encodable(asdict(row)) for row in rows], metadata)


def read_judgements(uri: str) -> list[Judgement]:
    """Raises:
    BadData: no Parquet file of this schema.
    """
    return [Judgement(**row) for row in read_table(uri, JUDGEMENTS)]


def _encodable(row: dict[str, object]) -> dict[str, object]:
    """Half a letter, as JSON can carry it, is no text that Parquet can."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }
