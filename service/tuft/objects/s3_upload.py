"""Large objects go to S3 in parts, several at a time, with bounded memory.

The client library has this, too, but it reads on after a part has failed, tells progress by what
it has read and not by what has arrived, and takes the answer that was lost to its last request
for a failure. So the parts are sent here, by its building blocks.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO

import urllib3
from minio import Minio
from minio.datatypes import Part
from minio.error import MinioException, S3Error

log = logging.getLogger(__name__)

PART_BYTES = 16 * 1024 * 1024
"""Larger objects are uploaded in parts of this size."""
AT_ONCE = 3
"""Parts on their way at a time; each is held in memory."""
_MAX_PARTS = 10_000
_TELL_EVERY_S = 10.0


class Progress:
    """Tells in the log how far a long transfer has come."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many bytes more have arrived."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._told < _TELL_EVERY_S:
                return
            self._told = now
            speed = self._done / (now - self._began) / 1e6
            log.info(
                "%s: %d of %d MB, %.1f MB/s",
                self._what,
                self._done // 1_000_000,
                self._total // 1_000_000,
                speed,
            )


def upload_in_parts(client: Minio, bucket: str, name: str, source: BinaryIO, size: int) -> None:
    """Write an object of `size` bytes; it is there as a whole or not at all.

    Each part is tried several times. Where one fails for good, no others are begun, and what
    has arrived is given up.

    Raises:
        MinioException, urllib3.exceptions.HTTPError: what the server or the network said.
        OSError: the source can't be read, or has less than `size` bytes.
    """
    upload_id = client._create_multipart_upload(bucket, name, {})
    try:
        parts = _send(client, bucket, name, upload_id, source, size)
        _complete(client, bucket, name, upload_id, parts, size)
    except BaseException:
        # Whatever it was, also an interruption: parts that nobody completes take room. What can't
        # be given up now is removed when it is old (see S3Objects.sweep).
        with contextlib.suppress(MinioException, urllib3.exceptions.HTTPError):
            client._abort_multipart_upload(bucket, name, upload_id)
        raise


def _send(
    client: Minio, bucket: str, name: str, upload_id: str, source: BinaryIO, size: int
) -> list[Part]:
    progress = Progress(f"uploading {name}", size)

    def send(number: int, data: bytes) -> Part:
        etag = client._upload_part(bucket, name, data, None, upload_id, number)
        progress.add(len(data))
        return Part(number, etag)

    parts: list[Part] = []
    running: set[Future[Part]] = set()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload") as pool:
        for number, data in enumerate(_pieces(source, size), start=1):
            running.add(pool.submit(send, number, data))
            if len(running) == AT_ONCE:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                parts += [future.result() for future in done]
        parts += [future.result() for future in running]
    return sorted(parts, key=lambda part: part.part_number)


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    length = max(PART_BYTES, -(-size // _MAX_PARTS))
    left = size
    while left:
        data = source.read(min(length, left))
        if not data:
            raise OSError(f"the file to upload became {left} bytes shorter")
        left -= len(data)
        yield data


def _complete(
    client: Minio, bucket: str, name: str, upload_id: str, parts: list[Part], size: int
) -> None:
    refused: S3Error | None = None
    try:
        result = client._complete_multipart_upload(bucket, name, upload_id, parts)
        if result.etag:
            return
    except S3Error as error:
        if error.code != "NoSuchUpload":
            raise
        refused = error
    # Either the request was sent again, since its first answer was lost, and had been done; or
    # the server said OK before it was done, and then that it was not. The object tells.
    found = client.stat_object(bucket, name)
    if found.size != size or not (found.etag or "").endswith(f"-{len(parts)}"):
        raise refused or MinioException("the parts could not be made one object")
