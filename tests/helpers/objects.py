"""Object stores that stand in for a bad moment of a real one, which does all the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tuft.objects import ObjectInfo, ObjectStore

Hook = Callable[[str, str], None]


class Observed:
    """An ObjectStore that calls `before(operation, key)` first and then the real one."""

    def __init__(self, objects: ObjectStore, before: Hook) -> None:
        self._objects = objects
        self._before = before

    def check(self) -> None:
        self._objects.check()

    def put(self, key: str, data: bytes) -> None:
        self._before("put", key)
        self._objects.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._before("put_file", key)
        self._objects.put_file(key, path)

    def get(self, key: str) -> bytes:
        self._before("get", key)
        return self._objects.get(key)

    def get_file(self, key: str, path: Path) -> None:
        self._before("get_file", key)
        self._objects.get_file(key, path)

    def exists(self, key: str) -> bool:
        self._before("exists", key)
        return self._objects.exists(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._before("list", prefix)
        return self._objects.list(prefix)

    def delete(self, key: str) -> None:
        self._before("delete", key)
        self._objects.delete(key)

    def delete_prefix(self, prefix: str) -> None:
        # One by one, so that a test can stop in the middle.
        for info in list(self._objects.list(prefix)):
            self.delete(info.key)

    def sweep(self, before: float) -> int:
        self._before("sweep", "")
        return self._objects.sweep(before)


class Crash(BaseException):
    """The process dies here: nothing that handles errors may run."""


def crash_at(moment: int) -> Hook:
    """A hook that crashes before the change (put or delete) number `moment`, from 0."""
    changes = 0

    def before(operation: str, key: str) -> None:
        nonlocal changes
        if operation not in ("put", "put_file", "delete"):
            return
        if changes == moment:
            raise Crash(f"{operation} {key}")
        changes += 1

    return before
