"""Node processes inside bubblewrap: the bridge, which runs a model's code, and the game server.

Inside there is no network, no file but programs and our JavaScript, nothing to write to, and no
second process. They talk through sockets of which this process has the other end, and they end
with this process, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import sys
from collections import deque
from pathlib import Path

from tuft_components.envs.voyager.forks import machines, no_forks
from tuft_components.envs.voyager.installing import INSTALL, NODE, modules
from tuft_components.errors import BadConfiguration, StepError, TransientFailure
from tuft_components.sandbox.system import bound_system

_MB = 1 << 20
_NOBODY = "65534"
_PROGRAMS = ("bwrap", "prlimit", "node")
_LINES = 20
_SYSTEM = ("bin", "lib", "lib32", "lib64", "local/bin", "local/lib")
"""Of /usr."""


def check() -> None:
    """Raises:
    BadConfiguration: this machine can't run it, and why.
    """
    if sys.platform != "linux":
        raise BadConfiguration(f"voyager needs Linux (bubblewrap): this is {platform.system()}")
    if platform.machine() not in machines():
        known = " and ".join(machines())
        raise BadConfiguration(f"voyager runs on {known}: this is {platform.machine()}")
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            raise BadConfiguration(
                f"environment voyager runs code in a sandbox, for which the program {program} is "
                f"missing. To install: {INSTALL}"
            )
    modules()


def failed(what: str, said: str) -> StepError:
    """Why a process did not come up; `said` are its last lines."""
    if "bwrap:" in said:
        return BadConfiguration(
            f"voyager runs code in a sandbox only, and bubblewrap can't make one here: {said}. In a "
            "container, its seccomp and AppArmor profiles must allow unshare and mount"
        )
    return TransientFailure(f"{what}: {said}")


class Sandboxed:
    """A node process. `tail()` are the last lines that it said on its standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: deque[str] = deque(maxlen=_LINES)
        self._reading = asyncio.ensure_future(self._read())

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tail(self) -> str:
        return "\n".join(self._said)

    async def stop(self) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        """In pieces: a line may be endless."""
        stream = self._process.stderr
        assert stream is not None
        while part := await stream.read(4096):
            self._said.extend(part.decode(errors="replace").splitlines()[-_LINES:])


async def start(
    script: str,
    argument: str,
    *,
    folder: Path,
    descriptor: int,
    writable: bool = False,
    heap_mb: int = 256,
) -> Sandboxed:
    """Run `script` of ours. It sees `folder` as /io, and has the file `descriptor`."""
    filter_fd = _filter()
    try:
        process = await asyncio.create_subprocess_exec(
            *command(script, argument, folder, filter_fd, writable=writable, heap_mb=heap_mb),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(descriptor, filter_fd),
        )
    except OSError as error:
        raise TransientFailure(f"bubblewrap could not be started: {error}") from error
    finally:
        os.close(filter_fd)
    return Sandboxed(process)


def _filter() -> int:
    """A file that bubblewrap reads the filter from."""
    descriptor = os.memfd_create("filter", 0)
    os.write(descriptor, no_forks())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def command(
    script: str, argument: str, folder: Path, filter_fd: int, *, writable: bool, heap_mb: int
) -> list[str]:
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", _NOBODY, "--gid", _NOBODY, "--seccomp", str(filter_fd), "--clearenv"]
    words += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/"]
    words += bound_system(_SYSTEM)
    node = Path(shutil.which("node") or "node").resolve()
    if not node.is_relative_to("/usr"):
        words += ["--ro-bind", str(node.parent), "/app/bin"]
        node = Path("/app/bin") / node.name
    words += ["--ro-bind", str(NODE), "/app/js", "--ro-bind", str(modules()), "/app/node_modules"]
    words += ["--bind" if writable else "--ro-bind", str(folder), "/io"]
    for name in ("null", "zero", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    words += ["--chdir", "/app/js", "--remount-ro", "/", "--"]
    # Not the address space, of which node reserves much more than it ever uses, but what it may
    # write to: with buffers that are not in its heap.
    limits = {"data": (heap_mb + 512) * _MB, "nofile": 128, "fsize": _MB, "core": 0}
    words += ["prlimit", *(f"--{name}={value}" for name, value in limits.items()), "--"]
    words += [str(node), f"--max-old-space-size={heap_mb}", *_permissions()]
    return [*words, f"/app/js/{script}", argument]


def _permissions() -> list[str]:
    """A second wall, of node's own: no processes, no threads, no writing, no native modules."""
    return [
        "--no-warnings",
        "--experimental-permission",
        "--allow-fs-read=*",
        "--allow-fs-write=/io",
    ]
