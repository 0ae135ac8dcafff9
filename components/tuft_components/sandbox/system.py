"""The system's programs and libraries, as a sandbox sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def bound_system(folders: Sequence[str]) -> list[str]:
    """Words for bubblewrap: these folders of /usr, read-only, and how they are reached."""
    words = []
    for name in folders:
        words += ["--ro-bind-try", f"/usr/{name}", f"/usr/{name}"]
    for name in ("bin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    return [*words, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
