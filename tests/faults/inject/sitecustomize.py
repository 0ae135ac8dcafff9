"""Fault points in the service's processes, put there from outside: the product knows nothing of it.

Python imports this module at its start where its folder is on PYTHONPATH. With TUFT_FAULTS naming
a folder, it wraps the few functions by which the service makes something durable. A point is
`{role}.{what}.before` or `.after`: what is about to be written is lost there, or what was written
is there and nobody knows.

A point is armed by a file of its name in `armed/`. The first process that passes it takes the file
away and kills itself; points that were passed leave a file in `passed/`.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

_ROLES = {
    "tuft.api": "api",
    "tuft.training": "trainer",
    "tuft.sampling": "sampler",
    "tuft.cli": "supervisor",
}
_READING_SCRIPTS = frozenset({"journal_entries", "journal_next", "worker_statuses"})
_WRITING_COMMANDS = frozenset(
    {"DEL", "HDEL", "HINCRBY", "HSET", "HSETNX", "SADD", "SET", "SREM", "XADD", "ZADD", "ZREM"}
)
_RANK_COMMANDS = frozenset({"Capture", "Compute", "Resume", "Start", "Step"})

Names = Callable[..., str | None]
"""What a call is named, by its arguments; None where it is no fault point."""


class Points:
    """The fault points of this process."""

    def __init__(self, folder: str, role: str) -> None:
        self._armed = os.path.join(folder, "armed")
        self._passed = os.path.join(folder, "passed")
        self._role = role
        self._known: set[str] = set()

    def become(self, role: str) -> None:
        """This process is another one now."""
        self._role = role
        self._known.clear()

    def reach(self, what: str) -> None:
        """Die here, if the point is armed."""
        point = f"{self._role}.{what}"
        if point not in self._known:
            self._known.add(point)
            with open(os.path.join(self._passed, point), "a", encoding="utf-8"):
                pass
        try:
            os.unlink(os.path.join(self._armed, point))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    def wrap(self, owner: Any, name: str, names: Names) -> None:
        """Put a point before and one after the calls of a function or method."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            what = names(*args, **kwargs)
            if what is None:
                return function(*args, **kwargs)
            self.reach(f"{what}.before")
            result = function(*args, **kwargs)
            self.reach(f"{what}.after")
            return result

        setattr(owner, name, wrapped)


def _of_script(_self: object, code: Any, *_args: object) -> str | None:
    return None if code.name in _READING_SCRIPTS else str(code.name)


def _of_command(_self: object, *command: object) -> str | None:
    if command[0] not in _WRITING_COMMANDS:
        return None
    kind = str(command[1]).split(":")[1]
    return f"{str(command[0]).lower()}-{kind}"


def _of_transaction(_self: object, *commands: Sequence[object]) -> str | None:
    return f"multi-{_of_command(None, *commands[0])}"


def _class_of(key: str) -> str:
    """What an object is, by its key: `payloads/…`, `runs/{run}/weights/{name}/manifest.json`, …"""
    parts = key.split("/")
    if parts[0] != "runs":
        return parts[0]
    last = "manifest" if parts[-1] == "manifest.json" else "file"
    return f"{parts[2]}-{last}"


def _of_object(what: str, position: int) -> Names:
    return lambda *args, **_kwargs: f"{what}-{_class_of(args[position])}"


def _always(what: str) -> Names:
    return lambda *_args, **_kwargs: what


def _of_rank_command(_self: object, command: object) -> str | None:
    name = type(command).__name__
    return f"ranks-{name.lower()}" if name in _RANK_COMMANDS else None


def _store(points: Points, module: ModuleType) -> None:
    points.wrap(module.Connection, "run", _of_script)
    points.wrap(module.Connection, "call", _of_command)
    points.wrap(module.Connection, "write", _of_transaction)


def _local(points: Points, module: ModuleType) -> None:
    # Not `put`: before this one the file is written and synced, and not yet at its place.
    points.wrap(module.LocalObjects, "_publish", _of_object("put", 3))
    points.wrap(module.LocalObjects, "delete", _of_object("delete", 1))


def _s3(points: Points, module: ModuleType) -> None:
    points.wrap(module.S3Objects, "_upload", _of_object("put", 1))
    points.wrap(module.S3Objects, "delete", _of_object("delete", 1))


def _handover(points: Points, module: ModuleType) -> None:
    points.wrap(module.Handover, "put", _always("handover-put"))
    points.wrap(module, "_write", _always("handover-write"))
    points.wrap(module.Handover, "uploaded", _always("handover-uploaded"))


def _group(points: Points, module: ModuleType) -> None:
    # Not `call`: here it is noted already what would be to blame. It is each rank's, too.
    points.wrap(module.RankGroup, "_do", _of_rank_command)


def _child(points: Points, module: ModuleType) -> None:
    if os.environ.get("TUFT_FAULTS_FORK"):
        import forking  # type: ignore[import-not-found]  # beside this file, whose folder is on the path

        def begin(name: str, env: Mapping[str, str]) -> None:
            role = _role_of(name, env)
            points.become(role)
            folder = os.path.join(env["TUFT_FAULTS"], "roles")
            with open(os.path.join(folder, str(os.getpid())), "w", encoding="utf-8") as file:
                file.write(name)

        forking.install(module, begin)


PATCHES: dict[str, Callable[[Points, ModuleType], None]] = {
    "tuft.store.connection": _store,
    "tuft.objects.local": _local,
    "tuft.objects.s3": _s3,
    "tuft.checkpoints.handover": _handover,
    "tuft.training.group": _group,
    "tuft.supervisor.child": _child,
}


class _Patching(importlib.abc.Loader):
    """Loads a module as usual, and wraps its functions."""

    def __init__(self, loader: importlib.abc.Loader, points: Points) -> None:
        self._loader = loader
        self._points = points

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        PATCHES[module.__name__](self._points, module)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, points: Points) -> None:
        self._points = points

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patching(spec.loader, self._points)
        return spec


def _role_of(module: str, env: Mapping[str, str]) -> str:
    """By `python -m MODULE`; ranks other than 0 are a role of their own."""
    role = _ROLES[module]
    return "rank" if role == "trainer" and env.get("RANK", "0") != "0" else role


def _role() -> str | None:
    for flag, module in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
        if flag == "-m" and module in _ROLES:
            return _role_of(module, os.environ)
    return None


def install(folder: str, role: str) -> None:
    """Have the points of this process from the first import of their modules on."""
    for name in ("armed", "passed", "roles"):
        with suppress(FileExistsError):
            os.makedirs(os.path.join(folder, name))
    sys.meta_path.insert(0, _Finder(Points(folder, role)))


if (_folder := os.environ.get("TUFT_FAULTS")) and (_own_role := _role()) is not None:
    install(_folder, _own_role)
