"""Names and places of checkpoints: `tinker://{run}/{kind}/{name}` and object prefixes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from tuft.contracts.records import CheckpointKind
from tuft.errors import InvalidRequest

KINDS: tuple[CheckpointKind, ...] = get_args(CheckpointKind)
_NAME = re.compile(r"[A-Za-z0-9._:=+@,-]{1,200}")
_GRAMMAR = f"tinker://<training run>/<{'|'.join(KINDS)}>/<name>"


@dataclass(frozen=True)
class CheckpointPath:
    """The parts of a tinker:// path."""

    run_id: str
    kind: CheckpointKind
    name: str

    def __str__(self) -> str:
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"

    @property
    def prefix(self) -> str:
        """Its folder in the object store."""
        return prefix_of(self.run_id, self.kind, self.name)


def check_name(name: str) -> str:
    """The name itself, where it can be one segment of a tinker:// path and of a URL.

    Raises:
        InvalidRequest: empty, over 200 characters, only dots, or with other characters than
            letters, digits and `._:=+@,-`.
    """
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise InvalidRequest(
            f"checkpoint name {name!r}: use 1 to 200 letters, digits and ._:=+@,- "
            "(no slashes, not only dots)"
        )
    return name


def parse_path(path: str) -> CheckpointPath:
    """The parts of `tinker://run/kind/name`.

    Raises:
        InvalidRequest: anything else; the message has the grammar.
    """
    scheme, separator, rest = path.partition("://")
    parts = rest.split("/")
    if scheme != "tinker" or not separator or len(parts) != 3:
        raise InvalidRequest(f"{path!r} is not a checkpoint path; it must be {_GRAMMAR}")
    run_id, kind, name = parts
    if kind not in KINDS:
        raise InvalidRequest(f"{path!r}: no kind of checkpoint is {kind!r}; it must be {_GRAMMAR}")
    if not _NAME.fullmatch(run_id) or not run_id.strip("."):
        raise InvalidRequest(f"{path!r}: {run_id!r} is not a training run; it must be {_GRAMMAR}")
    return CheckpointPath(run_id, kind, check_name(name))


def prefix_of(run_id: str, kind: CheckpointKind, name: str) -> str:
    """The folder of a checkpoint in the object store, without a trailing slash."""
    return f"runs/{run_id}/{kind}/{name}"
