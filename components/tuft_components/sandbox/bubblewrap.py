"""The command that makes a sandbox, and why a machine can't."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from tuft_components.errors import BadConfiguration
from tuft_components.sandbox import seccomp
from tuft_components.sandbox.inside import source
from tuft_components.sandbox.jobs import Limits
from tuft_components.sandbox.system import bound_system
from tuft_components.sandbox.watch import FOLDER, can_watch

NOBODY = 65534
"""Whom root becomes outside: the kernel limits root's processes nowhere. Everybody's name inside."""

_SYSTEM = ("bin", "lib", "lib32", "lib64", "libexec", "local/bin", "local/lib")
"""Of /usr. Not all: /usr/src may hold a program's own files."""
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ELSE = "Or set TUFT_SANDBOX_URL to a sandbox runner (docs/sandboxes.md)."
_MB = 1 << 20


@dataclass(frozen=True)
class Interpreter:
    """A Python that the sandbox's user can read. `folder` is bound beside /usr; None: it is there."""

    program: str
    folder: str | None


def refusal() -> str:
    """Why no sandbox can be made here, as far as that can be seen without trying; else empty."""
    if sys.platform != "linux":
        return (
            f"sandboxes are made by bubblewrap, which needs Linux: this is {platform.system()}. "
            f"{_ELSE}"
        )
    if platform.machine() not in seccomp.machines():
        return f"sandboxes run on {' and '.join(seccomp.machines())}: this is {platform.machine()}"
    if shutil.which("bwrap") is None:
        return f"the program bwrap is missing: apt-get install bubblewrap. {_ELSE}"
    if not can_watch():
        return "this kernel does not tell the children of a process (CONFIG_PROC_CHILDREN)"
    if os.geteuid() == 0 and not _can_become_nobody():
        return f"root here can't become another user ({NOBODY}): start as an ordinary user. {_ELSE}"
    return ""


def hint(said: str) -> str:
    """What a machine on which bubblewrap failed must allow; `said` are bubblewrap's own words."""
    for file, wrong, text in (
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor's profile for bwrap, or kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        path = Path("/proc/sys") / file
        if path.exists() and path.read_text().strip() == wrong:
            return f"bubblewrap can't make namespaces here: {said}. To allow it: {text}. {_ELSE}"
    return (
        f"bubblewrap can't make namespaces here: {said}. In a container, its seccomp and AppArmor "
        f"profiles must allow unshare and mount. {_ELSE}"
    )


def _can_become_nobody() -> bool:
    """Whether this user namespace has that user at all."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    rows = [list(map(int, line.split())) for line in lines]
    return any(first <= NOBODY < first + count for first, _, count in rows)


def interpreter() -> Interpreter:
    """This process's own Python, where the sandbox's user can read it; else the system's.

    Raises:
        BadConfiguration: there is none.
    """
    base = Path(sys.base_prefix).resolve()
    own = base / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if own.exists() and _readable(base):
        bound = base in (Path("/usr"), Path("/usr/local"))
        return Interpreter(str(own), None if bound else str(base))
    found = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if found is None:
        raise BadConfiguration(
            f"the sandbox's user can't read {base}, and there is no /usr/bin/python3: "
            "apt-get install python3"
        )
    return Interpreter(found, None)


def _readable(folder: Path) -> bool:
    """By the user that the sandbox runs as outside."""
    if os.geteuid() != 0:
        return True
    return all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents))


@dataclass(frozen=True)
class Descriptors:
    """Open files that bubblewrap gets.

    Args:
        files: of the folder, by name: what to copy from.
        filter: the filter of system calls.
        tell: it writes there what it knows, in JSON.
        wait: the program begins when something comes from there.
    """

    files: Mapping[str, int]
    filter: int
    tell: int
    wait: int

    def all(self) -> list[int]:
        return [*self.files.values(), self.filter, self.tell, self.wait]


def command(python: Interpreter, limits: Limits, given: Descriptors) -> list[str]:
    """Of bubblewrap."""
    words = ["bwrap", "--json-status-fd", str(given.tell)]
    words += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += [f"--unshare-{name}" for name in ("user", "ipc", "pid", "net", "uts", "cgroup-try")]
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    words += ["--seccomp", str(given.filter), "--clearenv"]
    for name, value in _environment().items():
        words += ["--setenv", name, value]
    words += bound_system(_SYSTEM)
    if python.folder is not None:
        words += ["--ro-bind", python.folder, python.folder]
    for name in _DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    # There is no /proc: nothing needs it, and a container seldom allows a new one.
    words += ["--size", str(limits.disk_mb * _MB), "--tmpfs", FOLDER]
    words += ["--symlink", FOLDER.lstrip("/"), "/tmp", "--chdir", FOLDER]  # noqa: S108  # inside
    for name, descriptor in given.files.items():
        words += ["--file", str(descriptor), f"{FOLDER}/{name}"]
    # Else it could fill the memory that bubblewrap's own root is in.
    words += ["--remount-ro", "/", "--"]
    kept = [
        given.wait,
        ceil(limits.cpu_s),
        limits.memory_mb * _MB,
        limits.processes,
        limits.disk_mb * _MB,
        limits.open_files,
    ]
    words += [python.program, "-I", "-S", "-c", source("launch"), *map(str, kept)]
    return [*words, python.program, "-s", f"{FOLDER}/main.py"]


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": FOLDER,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # the same program does the same every time
        "PYTHONDONTWRITEBYTECODE": "1",
        # Else each thread reserves 64 MiB of the memory that it may have.
        "MALLOC_ARENA_MAX": "1",
    }
