"""safetensors files in memory, written and read with as few copies as possible.

The library's own `save` and `load` copy each tensor twice. Policies are handed over at every
step of a training loop, so that counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from torch import Tensor

from tuft.contracts.policies import Content

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64


def write_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file: the CPU tensors in the given order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts, offset = [], 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        parts.append(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # The format allows spaces behind the JSON text.
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read_safetensors(data: Content) -> tuple[dict[str, Tensor], dict[str, str]]:
    """CPU tensors and metadata of a safetensors file's content.

    The tensors are views: of `data` itself where it is writable (and must then be left alone),
    else of one copy.

    Raises:
        SafetensorError: it is not such a file.
    """
    length = int.from_bytes(data[:8], "little")
    body = memoryview(data)[8 + length :]
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        content = bytearray(body) if body.readonly else body
        return {name: _tensor(content, entry) for name, entry in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        # What JSON of another shape, or offsets beyond the end, lead to.
        raise SafetensorError(f"not a whole safetensors file: {error}") from error


def _tensor(content: bytearray | memoryview, entry: Mapping[str, list[int]]) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES[str(entry["dtype"])], entry["shape"]
    if not 0 <= begin <= end <= len(content):
        raise ValueError(f"it ends after {len(content)} bytes, a tensor at {end}")
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    count = (end - begin) // dtype.itemsize
    return torch.frombuffer(content, dtype=dtype, count=count, offset=begin).view(shape)
