"""One copy of a base model's weights in memory for all processes of a machine.

safetensors files are memory-mapped, and a tensor that is loaded in the file's own dtype stays
on the mapping: processes that load the same file share its pages. Where the file has another
dtype than the computation, each process would convert for itself. So a copy in float32 is kept
in the user's cache, made once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from tuft.durable import sync_folder, sync_tree
from tuft.modeling.prepare import cache_folder

log = logging.getLogger(__name__)

# Part of a copy's folder name: raise it when the way it is made changes.
_VERSION = 1
# Safetensors' names. Every value of these is a float32, too: nothing is lost, or rounded
# otherwise than transformers would.
_WIDENED = frozenset({"BF16", "F16"})
_KEPT = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# As torch aligns its own memory: matmuls then take the same paths, and round the same way.
_ALIGNMENT = 64
_SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


def shared_folder(folder: Path, dtype: torch.dtype, device: torch.device) -> Path:
    """The folder to load the model in `folder` from, so that processes share its weights.

    That is `folder` itself, or on CPU, for float32 and a model in half precision, a copy of it
    in float32. It is found by the model's files; a process that makes it holds others up until
    it is there. Where it can't be made, the reason is logged and it is `folder`.
    """
    if device.type != "cpu" or dtype != torch.float32:
        return folder
    try:
        headers = {path: _read_header(path) for path in sorted(folder.glob("*.safetensors"))}
        if not _helps(folder, headers):
            return folder
        target = cache_folder() / "models" / f"{folder.name[:80]}-{_digest(folder)}-float32"
        if not target.is_dir():
            _make(folder, headers, target)
    except (OSError, ValueError) as error:
        # Sharing is an economy; whether the model itself can be loaded, loading says.
        log.warning("each process keeps its own copy of the weights of %s: %s", folder, error)
        return folder
    return target


def shared_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters that are mapped from safetensors files; 0 where that can't be told."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    ranges = []
    for line in maps.splitlines():
        if line.endswith((".safetensors", ".safetensors (deleted)")) or "/blobs/" in line:
            begin, _, end = line.partition(" ")[0].partition("-")
            ranges.append(range(int(begin, 16), int(end, 16)))
    return sum(
        parameter.nbytes
        for parameter in model.parameters()
        if any(parameter.data_ptr() in span for span in ranges)
    )


def _helps(folder: Path, headers: dict[Path, dict[str, Any]]) -> bool:
    dtypes = {entry["dtype"] for header in headers.values() for entry in header.values()}
    # Quantized weights mean something only together with their scales.
    quantized = "quantization_config" in json.loads((folder / "config.json").read_bytes())
    return bool(dtypes & _WIDENED) and dtypes <= _WIDENED | _KEPT.keys() and not quantized


def _digest(folder: Path) -> str:
    """Of what the model's files are. Their content would take minutes to read at every start."""
    about: list[object] = [_VERSION, str(folder.resolve())]
    for path in _files(folder):
        stat = path.stat()
        about.append((path.name, str(path.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    patterns = ("*.safetensors", *_SIDE_FILES)
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _make(folder: Path, headers: dict[Path, dict[str, Any]], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return
        need = sum(_width(entry)[1] for header in headers.values() for entry in header.values())
        free = shutil.disk_usage(target.parent).free
        if free < need * 1.1:
            raise OSError(
                f"a copy in float32 needs {need / 1e9:.1f} GB in {target.parent}, where "
                f"{free / 1e9:.1f} GB are free (XDG_CACHE_HOME names another place)"
            )
        log.info("writing a float32 copy of %s to %s (once, %.1f GB)", folder, target, need / 1e9)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for path in _files(folder):
                if path in headers:
                    _widen(path, headers[path], part / path.name)
                else:
                    shutil.copyfile(path, part / path.name)
            part.chmod(0o755)
            # What is found under its name is taken for whole ever after.
            sync_tree(part)
            part.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process is inside; the lock ends with its holder, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_header(path: Path) -> dict[str, Any]:
    """Tensors of a safetensors file by name: dtype, shape, data_offsets."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # What safetensors itself allows.
        header = json.loads(file.read(min(length, 100_000_000)))
    header.pop("__metadata__", None)
    return dict(header)


def _width(entry: dict[str, Any]) -> tuple[str, int]:
    """The dtype of a tensor's copy, and the bytes that it takes."""
    begin, end = entry["data_offsets"]
    dtype = entry["dtype"]
    return ("F32", 2 * (end - begin)) if dtype in _WIDENED else (dtype, end - begin)


def _widen(source: Path, header: dict[str, Any], target: Path) -> None:
    # The widest dtypes first, so that each tensor is aligned to its own size at least.
    names = sorted(header, key=lambda name: (-_KEPT[_width(header[name])[0]], name))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        dtype, size = _width(header[name])
        shape = header[name]["shape"]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    with target.open("wb") as out, safe_open(source, framework="pt") as tensors:
        _write_header(out, entries)
        for name in names:
            tensor = tensors.get_tensor(name)
            if header[name]["dtype"] in _WIDENED:
                tensor = tensor.float()
            out.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _write_header(out: BinaryIO, entries: dict[str, Any]) -> None:
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format allows spaces behind the JSON text.
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    out.write(len(text).to_bytes(8, "little") + text)
