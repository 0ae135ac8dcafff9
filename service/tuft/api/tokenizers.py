"""A model's tokenizer files as one archive."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path

from tuft.errors import NotFound

_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    # Where tokenizer_config.json names no class, transformers finds it by the model's type.
    "config.json",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


def tokenizer_archive(folder: Path) -> tuple[bytes, str]:
    """The zip and its ETag; equal files make equal archives.

    Raises:
        NotFound: the folder has no tokenizer.
    """
    files = [folder / name for name in _NAMES if (folder / name).is_file()]
    if not any(
        path.name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
        for path in files
    ):
        raise NotFound(f"the model's folder {folder.name} has no tokenizer")
    return _archive(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=16)
def _archive(files: tuple[tuple[Path, int, int], ...]) -> tuple[bytes, str]:
    """Times and sizes are in the key, so that a changed file makes a new archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, _time, _size in files:
            entry = zipfile.ZipInfo(path.name, date_time=_EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    data = out.getvalue()
    return data, f'"{hashlib.sha256(data).hexdigest()}"'
