"""What the tests of voyager share: a skip that names what is missing, and families."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tuft_components.envs.base import Environment, EnvironmentFamily
from tuft_components.envs.voyager import voyager
from tuft_components.envs.voyager.installing import modules
from tuft_components.errors import BadConfiguration


def _missing() -> str:
    programs = [name for name in ("node", "bwrap", "prlimit") if shutil.which(name) is None]
    if programs:
        return f"{', '.join(programs)} missing: make install-envs"
    try:
        modules()
    except BadConfiguration as error:
        return str(error)
    return ""


needs_game = pytest.mark.skipif(bool(_missing()), reason=_missing() or "installed")


@asynccontextmanager
async def playing(
    task: str, **args: object
) -> AsyncIterator[tuple[EnvironmentFamily, Environment]]:
    family = voyager(task, **args)  # type: ignore[arg-type]
    environment = await family.open()
    try:
        yield family, environment
    finally:
        await environment.close()
        await family.close()


def below(pid: int) -> set[int]:
    """All processes that come of this one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: set[int] = set()
    open_ = [pid]
    while open_:
        more: Sequence[int] = children.get(open_.pop(), [])
        found |= set(more)
        open_ += more
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
