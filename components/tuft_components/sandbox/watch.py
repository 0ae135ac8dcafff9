"""What the processes of a sandbox use, seen from outside.

The kernel limits each process by itself (`inside/launch.py`); together they could still use many
times as much. /proc tells it: no control group is needed, which an ordinary user can seldom make.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tuft_components.sandbox.jobs import Limit, Limits

FOLDER = "/work"
"""Where a program may write, as it sees it."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MB = 1 << 20
_PROC = Path("/proc")
# A process that has ended, or is just coming into its namespaces.
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass
class Usage:
    cpu_s: float = 0.0
    memory: int = 0
    disk: int = 0
    files: int = 0


def can_watch() -> bool:
    """Whether this kernel tells a process's children."""
    own = os.getpid()
    return (_PROC / str(own) / "task" / str(own) / "children").exists()


def descendants(pid: int, depth: int = 0) -> list[tuple[int, int]]:
    """(pid, depth) of the process and of all below it."""
    found = [(pid, depth)]
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
        children = [child for thread in threads for child in _children(thread)]
    except _GONE:
        return found
    for child in children:
        found += descendants(child, depth + 1)
    return found


def _children(thread: Path) -> list[int]:
    return [int(child) for child in (thread / "children").read_text().split()]


def usage(pid: int, limits: Limits) -> Usage:
    """Of bubblewrap's process `pid` and what runs below it."""
    total = Usage()
    for each, depth in descendants(pid):
        try:
            text = (_PROC / str(each) / "stat").read_text(errors="replace")
            # Bubblewrap and its first process inside; below them is the program.
            if depth > 1 and total.files == 0:
                total.disk, total.files = _folder(each, limits)
        except _GONE:
            continue
        fields = text.rpartition(")")[2].split()
        # utime, stime, and those of children that were waited for
        total.cpu_s += sum(map(int, fields[11:15])) / _TICKS
        total.memory += int(fields[21]) * _PAGE
    return total


def _folder(pid: int, limits: Limits) -> tuple[int, int]:
    found = os.statvfs(f"/proc/{pid}/root{FOLDER}")
    if found.f_blocks * found.f_frsize != limits.disk_mb * _MB:
        return 0, 0  # not in its own root yet
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return used, found.f_files - found.f_ffree


def exceeded(used: Usage, limits: Limits) -> Limit:
    """The limit that all together are above."""
    if used.cpu_s > limits.cpu_s:
        return "cpu"
    if used.memory + used.disk > limits.memory_mb * _MB:
        return "memory"
    return "files" if used.files > limits.files else ""
