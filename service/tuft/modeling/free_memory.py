"""How much memory this process may still take: the machine's, or its pod's where that is less."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _Files:
    """Where a kind of control group says what it may take and takes."""

    limit: str
    used: str
    cache: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int:
    """What is free now, in bytes.

    A container's limit stands in its control group, or in one above: /proc/meminfo knows nothing
    of it, and what is taken beyond it ends the process. `membership` and `mount` are where Linux
    tells of control groups; elsewhere there are none.
    """
    free = int(psutil.virtual_memory().available)
    for folder, files in _groups(membership, mount):
        limit = _number(folder / files.limit)
        used = _number(folder / files.used)
        if limit is not None and used is not None:
            # Cached files that nobody reads are given up before the limit is reached.
            free = min(free, limit - used + min(used, _cached(folder, files)))
    return max(0, free)


def _groups(membership: Path, mount: Path) -> Iterator[tuple[Path, _Files]]:
    """The group of this process and those above it, as far as they can be seen from here."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _upwards(mount, path, _V2)
        elif "memory" in controllers.split(","):
            yield from _upwards(mount / "memory", path, _V1)


def _upwards(mount: Path, path: str, files: _Files) -> Iterator[tuple[Path, _Files]]:
    # A container may see its own group as the mount, and the path as the host has it: then the
    # folders between are not there.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth]), files


def _number(file: Path) -> int | None:
    """None where it is not there, or there is no limit ("max")."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached(folder: Path, files: _Files) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        name, _, value = line.partition(" ")
        if name == files.cache:
            return int(value)
    return 0
