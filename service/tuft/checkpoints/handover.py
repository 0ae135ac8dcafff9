"""Policies that go from trainer to samplers of the same machine by files.

A new policy is on its way to the object store for a while, and samplers need it at once: so
the trainer puts it into a folder that they share. Each policy is one file, which appears whole
(by a rename) and carries a checksum. Its name ends in `.new` until the policy is in the object
store, then in `.kept`; of those the newest few stay. Older ones are `.spare`: the next policies
are written over them, since memory that the system has to find and clear first costs more than
the writing. Who reads a file holds a lock on it meanwhile, and is not written under.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import time
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from tuft.contracts.policies import Content
from tuft.contracts.records import CheckpointManifest
from tuft.durable import make_folder, sync_folder
from tuft.errors import DamagedCheckpoint

log = logging.getLogger(__name__)

_MAGIC = b"tuft-policy-1\n"
_NEW, _KEPT, _SPARE = ".new", ".kept", ".spare"
_KEPT_FILES, _KEPT_BYTES, _SPARE_FILES = 2, 1 << 30, 2
# More than this on the way to the object store: who adds another waits for it to arrive there.
_NEW_FILES, _NEW_BYTES = 256, 4 << 30
# A temporary file that is older belongs to a process that died.
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Handed:
    """A policy from the folder. The manifest lists no files: digests are made by the upload."""

    prefix: str
    manifest: CheckpointManifest
    files: dict[str, Content]
    """Views of the mapped file, in private memory where something writes to them. The file is
    locked for as long as one of them is there."""


class _Header(BaseModel):
    """Before the files' content: what it is, and how many bytes each of them has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str
    manifest: CheckpointManifest
    sizes: dict[str, int]


class Handover:
    """The folder, as trainers (who write) and samplers (who read) see it.

    Args:
        folder: on a disk of this machine.
        sync: a file must survive a power failure from the moment that it is there.
    """

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        self._folder = folder
        self._sync = sync

    def put(
        self,
        prefix: str,
        manifest: CheckpointManifest,
        files: Mapping[str, bytes],
        *,
        uploaded: bool = False,
    ) -> CheckpointManifest:
        """Add a policy; its manifest, or that of the same operation before a crash.

        Raises:
            OSError: it can't be written.
        """
        there = self.get(prefix)
        if there is not None and there.manifest.request_id == manifest.request_id:
            if self._sync:
                # Whoever wrote it may have been killed before its name was durable.
                sync_folder(self._folder)
            return there.manifest
        make_folder(self._folder, 0o700)
        sizes = {name: len(data) for name, data in files.items()}
        header = _Header(prefix=prefix, manifest=manifest, sizes=sizes)
        place = self._place(prefix, _KEPT if uploaded else _NEW)
        part = self._folder / f".{uuid.uuid4().hex}"
        try:
            with self._open_for_writing(part) as out:
                _write(out.fileno(), header, files)
                out.truncate()
                if self._sync:
                    os.fsync(out.fileno())
            # Not before the lock is gone.
            part.rename(place)
        finally:
            part.unlink(missing_ok=True)
        if self._sync:
            sync_folder(self._folder)
        if uploaded:
            self._drop_old()
        return manifest

    def get(self, prefix: str) -> Handed | None:
        """A policy; None where it is not here, or (logged) damaged."""
        # In this order: a file is renamed from the first to the second, and never back.
        for suffix in (_NEW, _KEPT):
            place = self._place(prefix, suffix)
            try:
                return _read(place, prefix)
            except FileNotFoundError:
                continue
            except (OSError, DamagedCheckpoint) as error:
                log.warning("%s can't be used: %s", place, error)
        return None

    @property
    def full(self) -> bool:
        """Too much is on its way to the object store."""
        sizes = [size for _, size, _ in self._entries(_NEW)]
        return len(sizes) >= _NEW_FILES or sum(sizes) >= _NEW_BYTES

    def waiting(self) -> list[str]:
        """Prefixes of the policies that are not in the object store yet, oldest first.

        What can't be read is removed, and logged: it would never get there.
        """
        found = []
        for _, _, place in sorted(self._entries(_NEW)):
            try:
                found.append(_read(place, None).prefix)
            except FileNotFoundError:
                continue  # another trainer's upload ended just now
            except DamagedCheckpoint as error:
                log.error("a policy is lost: %s", error.message)  # noqa: TRY400  # no bug here
                place.unlink(missing_ok=True)
        return found

    def uploaded(self, prefix: str) -> None:
        """It is in the object store: keep the file for a while, and drop older ones."""
        # Another trainer may have been first.
        with contextlib.suppress(FileNotFoundError):
            self._place(prefix, _NEW).rename(self._place(prefix, _KEPT))
        self._drop_old()

    def _place(self, prefix: str, suffix: str) -> Path:
        return self._folder / (hashlib.sha256(prefix.encode()).hexdigest()[:32] + suffix)

    def _entries(self, suffix: str) -> list[tuple[float, int, Path]]:
        """Modification time, bytes and path of the files with this suffix."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(suffix):
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat()
                        found.append((stat.st_mtime, stat.st_size, Path(entry.path)))
        return found

    def _open_for_writing(self, part: Path) -> BinaryIO:
        """A file at `part` that nobody reads: one that is no longer needed, or a new one."""
        for _, _, spare in self._entries(_SPARE):
            try:
                spare.rename(part)
                file = part.open("r+b", buffering=0)
            except FileNotFoundError:
                continue  # another trainer was first
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                part.unlink()
            else:
                return file
        return part.open("xb", buffering=0)

    def _drop_old(self) -> None:
        total, spares = 0, len(self._entries(_SPARE))
        for number, (_, size, path) in enumerate(sorted(self._entries(_KEPT), reverse=True)):
            total += size
            if number < _KEPT_FILES and (not number or total <= _KEPT_BYTES):
                continue
            if spares < _SPARE_FILES:
                spares += 1
                with contextlib.suppress(FileNotFoundError):
                    path.rename(path.with_suffix(_SPARE))
            else:
                path.unlink(missing_ok=True)
        for changed_at, _, path in self._entries(""):
            if path.name.startswith(".") and changed_at < time.time() - _ABANDONED_S:
                path.unlink(missing_ok=True)


def _write(handle: int, header: _Header, files: Mapping[str, bytes]) -> None:
    """Magic, header and its length, contents, and a checksum of all that."""
    about = header.model_dump_json().encode()
    parts = [_MAGIC, len(about).to_bytes(8, "little"), about, *files.values()]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    for part in (*parts, checksum.to_bytes(4, "little")):
        left = memoryview(part)
        while left:
            left = left[os.write(handle, left) :]


def _read(place: Path, prefix: str | None) -> Handed:
    """Raises: FileNotFoundError; DamagedCheckpoint where it is not whole, or not of `prefix`."""
    with place.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= len(_MAGIC) + 12:
            raise DamagedCheckpoint(f"{place} is cut off")
        # The map has the file's lock, too, and keeps it.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Writable, as torch wants its buffers; the file is not written to.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    intact = zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    if not intact or data[: len(_MAGIC)] != _MAGIC:
        raise DamagedCheckpoint(f"{place} is damaged: its checksum is not that of its content")
    at = len(_MAGIC) + 8
    length = int.from_bytes(data[len(_MAGIC) : at], "little")
    try:
        header = _Header.model_validate_json(bytes(data[at : at + length]))
    except ValidationError as error:
        raise DamagedCheckpoint(f"{place} is not of this version: {error}") from error
    if prefix not in (None, header.prefix):
        raise DamagedCheckpoint(f"{place} is of {header.prefix}, not of {prefix}")
    at += length
    files: dict[str, Content] = {}
    for name, size in header.sizes.items():
        files[name] = data[at : at + size]
        at += size
    return Handed(header.prefix, header.manifest, files)
