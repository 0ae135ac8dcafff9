"""Reading an object from S3: where the connection breaks, reading goes on from there."""

from __future__ import annotations

import time
from typing import BinaryIO

from minio import Minio
from minio.error import S3Error
from urllib3 import exceptions as http

from tuft.objects.s3_http import TRIES, pause_s
from tuft.objects.s3_upload import Progress

_CHUNK_BYTES = 1024 * 1024


def download(client: Minio, bucket: str, name: str, sink: BinaryIO) -> None:
    """Write the object to `sink`, from its beginning; one version of it, and all of it.

    It begins anew where the object was replaced meanwhile. A few tries in a row that bring
    nothing end it; the sink has anything then.

    Raises:
        S3Error, http.HTTPError: what the server or the network said.
    """
    transfer = _Transfer(client, bucket, name, sink)
    failures = 0
    while True:
        before = transfer.received
        try:
            transfer.go_on()
            return
        except http.HTTPError:
            failures = 1 if transfer.received > before else failures + 1
            if failures >= TRIES:
                raise
        except S3Error as error:
            if error.code != "PreconditionFailed" or transfer.tag is None:
                raise
            failures += 1
            if failures >= TRIES:
                raise
            transfer.begin_anew()
        time.sleep(pause_s(failures - 1))


class _Transfer:
    def __init__(self, client: Minio, bucket: str, name: str, sink: BinaryIO) -> None:
        self._client = client
        self._bucket = bucket
        self._name = name
        self._sink = sink
        self._progress: Progress | None = None
        self.received = 0
        self.tag: str | None = None
        """The ETag of the version that is being read."""

    def begin_anew(self) -> None:
        self._sink.seek(0)
        self._sink.truncate()
        self.received, self.tag, self._progress = 0, None, None

    def go_on(self) -> None:
        """Read what is missing, up to the end."""
        condition: dict[str, str | list[str] | tuple[str]] = {}
        if self.tag is not None:
            condition["If-Match"] = self.tag
        response = self._client.get_object(
            self._bucket, self._name, offset=self.received, request_headers=condition
        )
        try:
            tag = response.headers.get("etag")
            if self.received and (response.status != 206 or tag != self.tag):
                # A server (or a proxy) that does not know ranges or conditions.
                self.begin_anew()
                raise http.ProtocolError("the object can't be read on from its middle")
            self.tag = tag
            length = int(response.headers["content-length"])
            end = self.received + length
            if self._progress is None:
                self._progress = Progress(f"downloading {self._name}", length)
            # What has arrived when a connection breaks counts: so no more is asked for at a
            # time than is there.
            while data := response.read1(_CHUNK_BYTES):
                self._sink.write(data)
                self.received += len(data)
                self._progress.add(len(data))
            if self.received != end:
                raise http.ProtocolError(f"{end - self.received} bytes are missing")
        finally:
            response.close()
            response.release_conn()
