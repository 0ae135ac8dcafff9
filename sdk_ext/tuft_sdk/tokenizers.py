"""Tokenizers come from the service, so that a pod needs no internet and no hub account.

The files are cached by their ETag under the user's cache folder (XDG_CACHE_HOME), or under the
temporary folder where that can't be written, as in a pod with a read-only root.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from tuft_sdk.errors import SdkError
from tuft_sdk.extension import ExtensionClient

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_UNPACKED_BYTES = 512 * 1024 * 1024


def fetch_tokenizer(extension: ExtensionClient, base_url: str, model_name: str) -> Path:
    """The folder with the tokenizer's files of a served base model, fetched if it changed.

    Raises:
        NotThere: the service does not serve that model.
    """
    cache = _cache_folder()
    pointer = cache / f"{_digest(base_url + ' ' + model_name)}.json"
    known = _known(pointer)
    response = extension.request(
        "GET",
        f"tuft/models/{quote(model_name)}/tokenizer",
        headers={"If-None-Match": known[0]} if known else None,
    )
    if response.status_code == 304 and known:
        return known[1]
    etag = response.headers.get("etag", "")
    folder = cache / _digest(etag or response.content.hex())
    if not folder.is_dir():
        _unpack(response.content, folder)
    if etag:
        _write_atomically(pointer, json.dumps({"etag": etag, "folder": folder.name}).encode())
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The transformers tokenizer in `folder`; never asks the hub."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True
    )
    return tokenizer


def _known(pointer: Path) -> tuple[str, Path] | None:
    """ETag and folder of what is cached; None where something of it is missing."""
    try:
        entry = json.loads(pointer.read_bytes())
        folder = pointer.parent / entry["folder"]
        etag = str(entry["etag"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours: fetch again
        return None
    return (etag, folder) if folder.is_dir() else None


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    for root in (Path(base), Path(tempfile.gettempdir()) / f"tuft-cache-{os.getuid()}"):
        folder = root / "tuft" / "tokenizers"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise SdkError(f"no folder to cache tokenizers in: neither {base} nor the temporary folder")


def _unpack(archive: bytes, folder: Path) -> None:
    """Unpack beside `folder` and rename, so that a half unpacked one is never used."""
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            members = files.infolist()
            if sum(member.file_size for member in members) > _MAX_UNPACKED_BYTES:
                raise SdkError(f"the tokenizer archive unpacks to over {_MAX_UNPACKED_BYTES} bytes")
            for member in members:
                name = PurePosixPath(member.filename)
                if len(name.parts) != 1 or name.is_absolute() or name.name == "..":
                    raise SdkError(f"unexpected name in the tokenizer archive: {member.filename!r}")
                (temporary / name.name).write_bytes(files.read(member))
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    except zipfile.BadZipFile as error:
        raise SdkError(f"the service's tokenizer archive is not a zip file: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_atomically(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
