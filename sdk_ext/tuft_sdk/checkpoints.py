"""What a checkpoint or policy is made of, and its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuft_sdk.errors import NotThere, Transient
from tuft_sdk.extension import ExtensionClient
from tuft_sdk.paths import parse_path


@dataclass(frozen=True)
class FileInfo:
    size: int
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """`lora` has rank, alpha and what is trained; `step` counts optimizer steps; `parent` is the
    checkpoint that the run began with, and `step_key` that of the step that saved this."""

    path: str
    base_model: str
    lora: Mapping[str, Any]
    parent: str | None
    step: int
    step_key: str | None
    created_at: float
    user_metadata: Mapping[str, str]
    files: Mapping[str, FileInfo]


def look_up(extension: ExtensionClient, path: str) -> CheckpointInfo:
    """Raises:
    ConfigurationError: not a tinker:// path. NotThere: none is there, or not yours.
    """
    answer: dict[str, Any] = extension.request("GET", _address(path)).json()
    files = {name: FileInfo(**file) for name, file in answer.pop("files").items()}
    return CheckpointInfo(**answer, files=files)


def download(extension: ExtensionClient, checkpoint: CheckpointInfo, name: str, into: Path) -> None:
    """Write one of its files to `into`, with size and sha256 verified.

    Raises:
        NotThere: it has no such file, or is gone. Transient: what came is not what its manifest
            says: it was overwritten just now, say.
    """
    expected = checkpoint.files.get(name)
    if expected is None:
        raise NotThere(f"{checkpoint.path} has no file {name}; it has: {list(checkpoint.files)}")
    extension.download(f"{_address(checkpoint.path)}/files/{name}", into)
    with into.open("rb") as file:
        found = FileInfo(into.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    if found != expected:
        raise Transient(
            f"{name} of {checkpoint.path} came with {found.size} bytes and sha256 {found.sha256}; "
            f"its manifest says {expected.size} bytes and {expected.sha256}: was it overwritten?"
        )


def _address(path: str) -> str:
    return "tuft/checkpoints/" + "/".join(parse_path(path))
