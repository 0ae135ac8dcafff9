"""What an object store can do; both backends pass one test suite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class ObjectInfo:
    """`size` in bytes; `changed_at` in seconds since the epoch, by the store's clock."""

    key: str
    size: int
    changed_at: float


class ObjectStore(Protocol):
    """Immutable-by-convention blobs under keys such as `runs/s1:train:0/weights/a/manifest.json`.

    A put is atomic and durable when it returns: readers see the old object or the new one,
    whole. A prefix is a folder, with or without its trailing slash: `runs/a` never reaches
    `runs/ab/…`. A key must not be a folder of another key. Safe for use from several threads
    and processes.

    Every method raises Unavailable where the store is away (a retry may help), ConfigError
    where it refuses the credentials, InvalidRequest where a key is malformed.
    """

    def check(self) -> None:
        """Contact the store and see that it can be used; an S3 bucket is made if missing."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing what was there. Raises StorageFull."""

    def put_file(self, key: str, path: Path) -> None:
        """Write a file's content as an object, without holding it in memory. Raises StorageFull."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises NotFound."""

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to a file, without holding it in memory.

        The file is there as a whole or not at all. Raises NotFound; StorageFull where this
        machine's disk has no room.
        """

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder ("" is everything), in no particular order.

        What existed throughout the listing is yielded exactly once; an unfinished put never.
        """

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove all objects under a folder, which must not be ""."""

    def sweep(self, before: float) -> int:
        """Remove what puts that never ended have left, where they began before a time (seconds
        since the epoch). They are no objects and in no listing. Returns how many there were."""
