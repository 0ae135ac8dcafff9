"""Tensors on local disk for as long as the process lives."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tuft.errors import StorageFull


@dataclass(frozen=True)
class Extent:
    """A place in the file; `sizes`: numbers of float32 entries by name."""

    offset: int
    room: int
    sizes: Mapping[str, int]


class SpillFile:
    """A file without a name in TMPDIR: whatever ends the process, it leaves nothing behind.

    Places are used again for what has the same size, as adapters of one shape do.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="tuft-")  # noqa: SIM115 (open as long as self)
        weakref.finalize(self, self._file.close)
        self._end = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    def write(self, tensors: Mapping[str, Tensor], room: int) -> Extent:
        """Copy flat float32 tensors, of any device, into the file; they take `room` bytes.

        Raises:
            StorageFull: the disk has no room.
        """
        sizes = {name: tensor.numel() for name, tensor in tensors.items()}
        extent = Extent(self._take(room), room, sizes)
        offset = extent.offset
        try:
            for tensor in tensors.values():
                data = _bytes_of(tensor.detach().cpu().contiguous())
                while data:
                    count = os.pwrite(self._file.fileno(), data, offset)
                    offset, data = offset + count, data[count:]
        except OSError as error:
            self.free(extent)
            folder = tempfile.gettempdir()
            raise StorageFull(f"no room for an idle adapter in {folder}: {error}") from error
        return extent

    def read(self, extent: Extent) -> dict[str, Tensor]:
        """What was written, on the CPU. Raises: OSError."""
        offset, found = extent.offset, {}
        for name, size in extent.sizes.items():
            found[name] = torch.empty(size)
            data = _bytes_of(found[name])
            while data:
                count = os.preadv(self._file.fileno(), [data], offset)
                if count == 0:
                    raise OSError(f"a file in {tempfile.gettempdir()} was cut off at {offset}")
                offset, data = offset + count, data[count:]
        return found

    def free(self, extent: Extent) -> None:
        """Its content is not needed any more."""
        self._free[extent.room].append(extent.offset)

    def _take(self, room: int) -> int:
        if self._free[room]:
            return self._free[room].pop()
        offset, self._end = self._end, self._end + room
        return offset


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.numpy().data.cast("B")
