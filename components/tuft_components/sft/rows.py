"""The rows of a dataset file, one at a time: JSON lines or Parquet, whichever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuft_components.errors import BadData

MAX_LINE_BYTES = 64 * 1024 * 1024
_ROWS_AT_ONCE = 256
_PARQUET = b"PAR1"


class RowError(Exception):
    """What is wrong with one row; the file may be sound otherwise."""


@dataclass(frozen=True)
class Row:
    """`where` is "line N" of JSON lines or "row N" of Parquet, counted from 1."""

    where: str
    content: bytes | Mapping[str, Any]

    def fields(self) -> Mapping[str, Any]:
        """Raises:
        RowError: it is no JSON object.
        """
        if not isinstance(self.content, bytes):
            return self.content
        try:
            fields = json.loads(self.content.decode("utf-8-sig"))
        except ValueError as error:
            raise RowError(f"it is no JSON: {error}") from error
        except RecursionError as error:
            raise RowError("its JSON is nested too deeply") from error
        if not isinstance(fields, dict):
            raise RowError(f"it is a JSON {type(fields).__name__}, not an object")
        return fields


def read_rows(path: Path, uri: str) -> Iterator[Row]:
    """Rows in the file's order; `uri` is what messages call it. Empty lines are no rows.

    A line, or some rows of Parquet, are in memory at a time.

    Raises:
        BadData: the file is neither, or a line is longer than any row can be.
    """
    with path.open("rb") as file:
        is_parquet = file.read(len(_PARQUET)) == _PARQUET
    return _parquet(path, uri) if is_parquet else _lines(path, uri)


def _lines(path: Path, uri: str) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise BadData(
                    f"{uri}: line {number} is longer than {MAX_LINE_BYTES} bytes; the file must "
                    "be Parquet, or have one JSON object on each line"
                )
            if line.strip():
                yield Row(f"line {number}", line)


def _parquet(path: Path, uri: str) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", fields)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"{uri} is not a readable Parquet file: {error}") from error
