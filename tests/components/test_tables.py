"""Trajectories and batches on disk: exact, ordered, and refused where they are something else."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.components.samples import ROW, TRANSITION, row, transition
from tuft_components.batches import BATCH, read_batch, write_batch
from tuft_components.errors import BadData
from tuft_components.tables import TableSchema, read_table, write_table
from tuft_components.trajectories import TRAJECTORIES, read_trajectories, write_trajectories


def test_trajectories_survive_and_are_ordered(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "t.parquet")
    mixed = [
        transition(sample=1, turn=1),
        transition(group_id=1),
        transition(sample=1, done=False),
        transition(),
    ]
    artifact = write_trajectories(uri, mixed, {"env": "second_word"})
    assert artifact.metadata == {
        "schema": "tuft.trajectories/3",
        "rows": 4,
        "env": "second_word",
    }
    trajectories = read_trajectories(uri)
    assert [t.key for t in trajectories] == [(0, 0, 0), (0, 0, 1), (0, 1, 0)]
    assert [t.turn for t in trajectories[1].transitions] == [0, 1]
    assert trajectories[0].transitions == [TRANSITION]


def test_the_schema_is_named_in_the_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    write_trajectories(uri, [TRANSITION], {"policy": "p"})
    metadata = pq.read_schema(uri).metadata
    assert metadata[b"tuft.schema"] == b"tuft.trajectories/3"
    assert metadata[b"tuft.policy"] == b"p"


@pytest.mark.parametrize("schema", [TRAJECTORIES, BATCH], ids=lambda schema: schema.name)
def test_the_schema_is_documented(schema: TableSchema) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    section = text.split(f"\n## {schema.name}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE)
    described = [(name, unescape(kind)) for name, kind in rows]
    columns = [(field.name, str(field.type).replace("item: ", "")) for field in schema.columns]
    assert described == columns


def test_a_folder_whose_name_is_like_a_column_adds_none(tmp_path: Path) -> None:
    uri = str(tmp_path / "seed=1" / "t.parquet")
    write_trajectories(uri, [TRANSITION], {})
    assert read_trajectories(uri)[0].transitions == [TRANSITION]


def test_a_batch_survives_and_is_ordered(tmp_path: Path) -> None:
    uri = str(tmp_path / "b.parquet")
    write_batch(uri, [row(group_id=2), row(sample=1), ROW], {})
    assert read_batch(uri) == [ROW, row(sample=1), row(group_id=2)]


def test_another_schema_is_named_in_the_refusal(tmp_path: Path) -> None:
    uri = str(tmp_path / "b.parquet")
    write_batch(uri, [ROW], {})
    with pytest.raises(BadData, match=r"schema tuft\.batch/1, but .* reads tuft\.trajectories/3"):
        read_trajectories(uri)


def test_other_columns_under_the_right_name_are_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "b.parquet")
    table = pa.table({"x": [1]}).replace_schema_metadata({b"tuft.schema": b"tuft.batch/1"})
    pq.write_table(table, uri)
    with pytest.raises(BadData, match=r"its columns are \['x'\]"):
        read_batch(uri)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "b.parquet"
    other.write_text("hello")
    with pytest.raises(BadData, match="not a readable Parquet file"):
        read_batch(str(other))
    pq.write_table(pa.table({"x": [1]}), other)
    with pytest.raises(BadData, match="has schema none"):
        read_table(str(other), BATCH)


def test_a_missing_file_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        read_batch(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt_tokens": []}, "empty prompt"),
        ({"logprobs": [-1.0]}, "different lengths"),
        ({"mask": [1.0, 1.0, 1.0]}, "different lengths"),
        ({"advantages": [float("nan"), 0.0]}, "advantages that is not finite"),
        ({"logprobs": [float("-inf"), 0.0]}, "logprobs that is not finite"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    uri = str(tmp_path / "b.parquet")
    write_batch(uri, [row(sample=1), row(sample=3, **changes)], {})
    with pytest.raises(BadData, match=says) as caught:
        read_batch(uri)
    assert "(0, 0, 3, 0)" in str(caught.value)


def test_a_row_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "b.parquet")
    write_batch(uri, [ROW, row(sample=1), ROW], {})
    with pytest.raises(BadData, match="there twice"):
        read_batch(uri)


def test_no_rows_are_bad_data(tmp_path: Path) -> None:
    for schema, read in ((TRAJECTORIES, read_trajectories), (BATCH, read_batch)):
        uri = str(tmp_path / "empty.parquet")
        write_table(uri, schema, [])
        with pytest.raises(BadData, match="no rows"):
            read(uri)


@pytest.mark.parametrize("turns", [[0, 0], [1], [0, 2]])
def test_episodes_must_be_whole(tmp_path: Path, turns: list[int]) -> None:
    uri = str(tmp_path / "t.parquet")
    write_trajectories(uri, [transition(turn=turn) for turn in turns], {})
    with pytest.raises(BadData, match="each turn from 0 on must be there once"):
        read_trajectories(uri)


def test_logprobs_are_finite(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    write_trajectories(uri, [transition(sample=2, logprobs=[-1.0, float("nan")])], {})
    with pytest.raises(BadData, match="group 0 sample 2 has a logprob that is not finite"):
        read_trajectories(uri)


def test_each_token_needs_its_logprob(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    write_trajectories(uri, [transition(logprobs=[-1.0])], {})
    with pytest.raises(BadData, match="2 completion tokens and 1 logprobs"):
        read_trajectories(uri)
