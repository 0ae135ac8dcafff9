"""Parquet files with a named, versioned schema in their metadata.

A reader knows before it looks at a row whether the file is what it expects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuft_components.artifacts import local_input, local_output
from tuft_components.errors import BadData
from tuft_components.steps import Dataset

_SCHEMA_KEY = b"tuft.schema"


@dataclass(frozen=True)
class TableSchema:
    """`name` is like `tuft.batch/1`: a new number for every change of columns or meaning."""

    name: str
    columns: pa.Schema


def write_table(
    uri: str,
    schema: TableSchema,
    rows: Sequence[Mapping[str, Any]],
    metadata: Mapping[str, str | int | float] | None = None,
) -> Dataset:
    """Write rows (column name → value). `metadata` goes into the artifact and the file."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema.columns)
    described = {"schema": schema.name, "rows": table.num_rows, **(metadata or {})}
    texts = {f"tuft.{key}".encode(): str(value).encode() for key, value in described.items()}
    with local_output(uri) as path:
        pq.write_table(table.replace_schema_metadata(texts), path, compression="zstd")
    return Dataset(uri=uri, metadata=described)


def read_table(uri: str, schema: TableSchema) -> list[dict[str, Any]]:
    """The rows of a file of that schema; lists come as Python lists.

    Raises:
        BadData: not a Parquet file, or one of another schema.
    """
    return read_described(uri, schema)[0]


def read_described(uri: str, schema: TableSchema) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and the metadata that `write_table` was given, as texts; BadData as `read_table`."""
    with local_input(uri) as path:
        try:
            # Not read_table: it takes a folder called a=1 for a column.
            table = pq.ParquetFile(path).read()
        except (pa.ArrowException, OSError) as error:
            raise BadData(f"{uri} is not a readable Parquet file: {error}") from error
    described = table.schema.metadata or {}
    found = described.get(_SCHEMA_KEY, b"").decode()
    if found != schema.name:
        other_version = found.partition("/")[0] == schema.name.partition("/")[0]
        hint = (
            "another version of tuft-pipelines wrote it; use one version for all steps of a run"
            if other_version
            else "was another step's output given?"
        )
        raise BadData(
            f"{uri} has schema {found or 'none'}, but this step reads {schema.name}: {hint}"
        )
    if not table.schema.equals(schema.columns, check_metadata=False):
        raise BadData(f"{uri} says {schema.name}, but its columns are {table.schema.names}")
    texts = {
        key.decode().removeprefix("tuft."): value.decode()
        for key, value in described.items()
        if key.startswith(b"tuft.")
    }
    return table.to_pylist(), texts
