"""Safetensors files without torch: where each tensor lies, and arithmetic on it in place.

The format: eight bytes, the length of a JSON header; the header, name → dtype, shape and place;
the tensors' bytes. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuft_components.errors import BadData

_MAX_HEADER_BYTES = 100_000_000
_BLOCK_VALUES = 1 << 22
"""At most so many values of a tensor are in memory at a time."""
_STORED: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """`begin` and `size` in bytes, within the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


def places(path: Path, what: str) -> dict[str, Place]:
    """The tensors of a file, by name. `what` is what messages call it.

    Raises:
        BadData: it is no safetensors file, or not whole.
    """
    end = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, end - 8):
                raise ValueError(f"its header would have {length} bytes")
            header = json.loads(file.read(length))
        found = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, stop = entry["data_offsets"]
            found[name] = Place(
                str(entry["dtype"]), tuple(entry["shape"]), 8 + length + begin, stop - begin
            )
            if begin < 0 or stop < begin or 8 + length + stop > end:
                raise ValueError(f"tensor {name} lies outside of it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadData(f"{what} is not a whole safetensors file: {error}") from error
    return found


def read_tensor(path: Path, place: Place, what: str) -> Floats:
    """A whole tensor, as float32. Raises BadData: not of a type that can be read."""
    return _widened(_mapped(path, place, what, "r"), place.dtype)


def add_low_rank(path: Path, place: Place, b: Floats, a: Floats, scaling: float, what: str) -> None:
    """Add `scaling * b @ a` to a tensor where it lies; the sum is made in float32 and rounded once.

    Args:
        b: [out, rank]. a: [rank, in], of a tensor [out, in].

    Raises:
        BadData: shapes do not fit, its type is not one of floats, or a sum is too large for it.
    """
    if place.shape != (b.shape[0], a.shape[1]):
        raise BadData(
            f"{what} has shape {list(place.shape)}; the adapter was trained on one of "
            f"{[b.shape[0], a.shape[1]]}: is this its base model?"
        )
    stored = _mapped(path, place, what, "r+")
    rows = max(1, _BLOCK_VALUES // a.shape[1])
    for begin in range(0, len(stored), rows):
        block = slice(begin, begin + rows)
        total = _widened(stored[block], place.dtype) + np.float32(scaling) * (b[block] @ a)
        with np.errstate(over="ignore"):  # what is too large is looked for next
            narrowed = _narrowed(total, place.dtype)
        if not np.isfinite(_widened(narrowed, place.dtype)).all():
            raise BadData(f"{what} has values that are too large for {place.dtype}, or not finite")
        stored[block] = narrowed
    stored.flush()


def write_copy(source: Path, place: Place, name: str, target: Path) -> Place:
    """A new file with one tensor, copied under another name. Returns where it lies there."""
    entry: Mapping[str, Any] = {
        "dtype": place.dtype,
        "shape": list(place.shape),
        "data_offsets": [0, place.size],
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, name: entry}).encode()
    header += b" " * (-len(header) % 8)
    with source.open("rb") as read, target.open("wb") as write:
        write.write(len(header).to_bytes(8, "little") + header)
        read.seek(place.begin)
        left = place.size
        while left:
            piece = read.read(min(left, 1 << 24))
            write.write(piece)
            left -= len(piece)
    return Place(place.dtype, place.shape, 8 + len(header), place.size)


def _mapped(path: Path, place: Place, what: str, mode: Any) -> np.memmap[Any, Any]:
    dtype = _STORED.get(place.dtype)
    if dtype is None:
        raise BadData(
            f"{what} is of type {place.dtype}; adapters are merged into F32, F16 and BF16 only: "
            "give the base model as it was before it was quantised"
        )
    if int(np.prod(place.shape)) * dtype.itemsize != place.size:
        raise BadData(f"{what} has {place.size} bytes, which is not its shape {list(place.shape)}")
    return np.memmap(path, dtype=dtype, mode=mode, offset=place.begin, shape=place.shape)


def _widened(stored: npt.NDArray[Any], dtype: str) -> Floats:
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _narrowed(values: Floats, dtype: str) -> npt.NDArray[Any]:
    """To the nearest value, and to the even one of two that are as near."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    narrowed: npt.NDArray[Any] = values.astype(_STORED[dtype])
    return narrowed
