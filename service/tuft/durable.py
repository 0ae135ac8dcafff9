"""Files that must survive a power failure: what the system holds back is made to reach the disk."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make durable which names are in a folder; what the files hold is not its matter."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Make everything below a folder durable, and the folder, but not its own name above."""
    for above, _, names in os.walk(folder):
        for name in names:
            _sync(Path(above) / name)
        _sync(Path(above))


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, durably, where they are missing."""
    above = itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents))
    missing = list(above)
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
