"""A disk whose power can be cut: what was not synced by then is gone, as on a real machine.

It is an ext4 image, mounted as root. A cut is ext4's own shutdown without a flush of its journal
(what xfstests uses): from that moment nothing reaches the image any more, and its users see I/O
errors. Mounting the image again is what the machine's next boot does.
"""

from __future__ import annotations

import fcntl
import gc
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_until

# EXT4_IOC_SHUTDOWN, and "without writing anything more".
_SHUTDOWN = 0x8004587D
_NO_FLUSH = 2

GENTLE = ""
"""Mount options of most machines: ext4 writes the data of a replaced file before its new name."""
HARSH = "data=writeback,noauto_da_alloc"
"""A name may reach the disk long before the content does, as POSIX allows."""


class Disk:
    """`folder` is where it is mounted."""

    def __init__(self, image: Path, folder: Path, options: str) -> None:
        self._image = image
        self._options = ",".join(option for option in ("loop", options) if option)
        self.folder = folder
        self.cuts = 0

    def mount(self) -> None:
        _run("mount", "-o", self._options, str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Waits for whoever has still files open there to end."""

        def gone() -> bool:
            # What failed writes of this process left behind: open files, mappings.
            gc.collect()
            answer = subprocess.run(["umount", str(self.folder)], capture_output=True, text=True)
            return answer.returncode == 0

        wait_until(gone, 20, f"{self.folder} to be left by everybody")

    def cut(self) -> None:
        """From now on nothing reaches the disk."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(handle)
        self.cuts += 1

    def boot(self) -> None:
        """After a cut: mount again what the disk has."""
        self.unmount()
        self.mount()


@contextmanager
def power_cut_disk(folder: Path, *, options: str = GENTLE, megabytes: int = 64) -> Iterator[Disk]:
    """An empty one below `folder`. Skips the test where this user or kernel can't have one."""
    image, mounted = folder / "disk.img", folder / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    disk = Disk(image, mounted, options)
    try:
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        disk.mount()
    except (FileNotFoundError, RuntimeError) as error:
        pytest.skip(f"no disk to cut the power of: {error}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
        image.unlink()


def _run(*command: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")
