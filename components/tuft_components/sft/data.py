"""From a dataset's URI to examples on this machine's disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tuft_components.artifacts import local_input
from tuft_components.errors import BadData
from tuft_components.sft.encoding import Encoded, Encoder
from tuft_components.sft.examples import Examples
from tuft_components.sft.rows import Row, RowError, read_rows

OnRow = Literal["refuse", "drop"]


@dataclass
class Count:
    """Of rows that were read; `reason` is why the first bad one was dropped."""

    rows: int = 0
    bad: int = 0
    too_long: int = 0
    tokens: int = 0
    trained: int = 0
    reason: str = field(default="", repr=False)


@dataclass(frozen=True)
class Rules:
    """What is done with rows that can't be trained on, and how many are read (0: all)."""

    max_length: int
    bad_rows: OnRow
    too_long: OnRow
    max_rows: int = 0


def load(uri: str, encoder: Encoder, rules: Rules, folder: Path) -> tuple[Examples, Count]:
    """All rows of the dataset that can be trained on; the caller closes them.

    Raises:
        BadData: no such file, no row that can be used, or one that is refused, with its number.
    """
    examples, count = Examples(folder), Count()
    try:
        with local_input(uri) as path:
            for row in read_rows(path, uri):
                if rules.max_rows and count.rows == rules.max_rows:
                    break
                count.rows += 1
                encoded = _usable(row, uri, encoder, rules, count)
                if encoded is not None:
                    examples.add(encoded)
                    count.tokens += len(encoded.tokens)
                    count.trained += sum(encoded.trained)
        if not len(examples):
            dropped = f": {count.bad} bad, {count.too_long} too long" if count.rows else ""
            why = f". The first one: {count.reason}" if count.reason else ""
            raise BadData(f"{uri} has no row to train on, of {count.rows}{dropped}{why}")
    except BaseException:
        # Whatever it was, also an interruption: its file may have gigabytes.
        examples.close()
        raise
    return examples, count


def _usable(row: Row, uri: str, encoder: Encoder, rules: Rules, count: Count) -> Encoded | None:
    where = f"{uri}: {row.where}"
    try:
        encoded = encoder.encode(row.fields())
    except RowError as error:
        if rules.bad_rows == "refuse":
            raise BadData(
                f"{where}: {error}. bad_rows=drop leaves such rows out and counts them"
            ) from error
        count.bad += 1
        count.reason = count.reason or f"{row.where}: {error}"
        return None
    except BadData as error:
        raise BadData(f"{where}: {error}") from error
    length = len(encoded.tokens)
    if length <= rules.max_length:
        return encoded
    if rules.too_long == "refuse":
        raise BadData(
            f"{where} has {length} tokens, more than {rules.max_length} (max_length, or the "
            "model's context). too_long=drop leaves such rows out and counts them"
        )
    count.too_long += 1
    count.reason = count.reason or f"{row.where} has {length} tokens"
    return None
