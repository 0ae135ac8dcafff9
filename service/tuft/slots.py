"""Jobs of this machine that one process does at a time, however the process before it ended."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger(__name__)

_LONGEST_NAME = 200


class Slot:
    """A job that belongs to whichever process holds the lock on its file.

    The system takes the lock back when that process ends, also by kill -9, so that a successor
    knows at once that the owner before it is gone. A process that is stopped keeps it.

    Args:
        folder: where the files of this machine's jobs are; made where it is missing.
        job: its name.
        owner: who this process is; a successor finds it as `previous`.
    """

    def __init__(self, folder: Path, job: str, owner: str) -> None:
        self._file = folder / f"{quote(job, safe='')[:_LONGEST_NAME]}.lock"
        self._owner = owner
        self._descriptor: int | None = None
        self.previous = ""
        """Who did the job last, once the slot is held; it has ended. Empty: nobody, or not known."""

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def take(self) -> bool:
        """Whether this process holds the slot now. It does not wait for others."""
        if self._descriptor is not None:
            return True
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("%s can't be used now: %s", self._file, error.strerror)
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        self.previous = os.pread(descriptor, 1024, 0).decode(errors="replace")
        return True

    def sign(self) -> None:
        """Leave this owner's name for the successor: from now on it does the job."""
        if self._descriptor is None:
            raise RuntimeError(f"{self._file.name} is not held")
        name = self._owner.encode()
        try:
            os.pwrite(self._descriptor, name, 0)
            os.ftruncate(self._descriptor, len(name))
        except OSError as error:
            # The disk is full: the successor does not know whom it replaces, and waits a little.
            log.warning("%s can't be written: %s", self._file, error.strerror)

    def release(self) -> None:
        """Let others have it; nothing happens where it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
