"""Large objects on their way to and from S3: parts, connections that break, answers that are lost."""

from __future__ import annotations

import logging
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error
from urllib3 import HTTPResponse

from tests.helpers.forwarder import Forwarder, forwarding
from tests.helpers.s3_server import S3Server
from tests.service.objects.test_s3 import free_port
from tuft.errors import NotFound, Unavailable
from tuft.objects import ObjectStore, open_object_store, s3, s3_http, s3_upload

BUCKET = "transfers"
MIB = 1024 * 1024
# The smallest that S3 takes.
PART = 5 * MIB


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_http, "_FIRST_PAUSE_S", 0.02)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (s3, s3_upload):
        monkeypatch.setattr(module, "PART_BYTES", PART)


@contextmanager
def behind_forwarder(server: S3Server) -> Iterator[tuple[ObjectStore, ObjectStore, Forwarder]]:
    """The store through a forwarder, and the same one without."""
    direct = open_object_store(server.config(bucket=BUCKET))
    direct.delete_prefix("x")
    port = free_port()
    with forwarding(server.endpoint, port) as forwarder:
        config = server.config(endpoint=f"127.0.0.1:{port}", bucket=BUCKET)
        yield open_object_store(config), direct, forwarder


def uploads(server: S3Server) -> int:
    client = Minio(
        server.endpoint,
        access_key=server.access_key,
        secret_key=server.secret_key,
        secure=False,
    )
    return len(client._list_multipart_uploads(BUCKET, prefix="x").uploads)


def content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


def test_a_download_goes_on_where_the_connection_broke(s3_server: S3Server, tmp_path: Path) -> None:
    data = content(3_000_000)
    with behind_forwarder(s3_server) as (store, direct, forwarder):
        direct.put("x/a", data)
        # Less than half of it each time: only what goes on gets to the end.
        forwarder.cut_replies_after = 500_000
        assert store.get("x/a") == data
        store.get_file("x/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data


def test_a_download_that_brings_nothing_ends(s3_server: S3Server, tmp_path: Path) -> None:
    with behind_forwarder(s3_server) as (store, direct, forwarder):
        direct.put("x/a", content(1_000_000))
        store.check()
        forwarder.cut()
        forwarder.cut_replies_after = 100
        began = time.monotonic()
        for read in (lambda: store.get("x/a"), lambda: store.get_file("x/a", tmp_path / "a")):
            with pytest.raises(Unavailable, match=r"read 'x/a'.*connection broke"):
                read()
        assert time.monotonic() - began < 20
    assert list(tmp_path.iterdir()) == []


def test_what_is_replaced_meanwhile_is_read_anew(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = content(2_000_000), content(2_500_000)[::-1]
    with behind_forwarder(s3_server) as (store, direct, forwarder):
        direct.put("x/a", old)
        forwarder.cut_replies_after = 700_000
        real = s3_http.pause_s
        replaced = False

        def pause(failures: int) -> float:
            nonlocal replaced
            if not replaced:
                replaced = True
                direct.put("x/a", new)
            return real(failures)

        monkeypatch.setattr("tuft.objects.s3_download.pause_s", pause)
        assert store.get("x/a") == new
    assert replaced


def test_what_is_deleted_meanwhile_is_not_found(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with behind_forwarder(s3_server) as (store, direct, forwarder):
        direct.put("x/a", content(2_000_000))
        forwarder.cut_replies_after = 700_000

        def pause(failures: int) -> float:
            direct.delete("x/a")
            return 0.0

        monkeypatch.setattr("tuft.objects.s3_download.pause_s", pause)
        with pytest.raises(NotFound):
            store.get("x/a")


@pytest.mark.usefixtures("small_parts")
def test_an_upload_in_parts(
    s3_server: S3Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_upload, "_TELL_EVERY_S", 0.0)
    caplog.set_level(logging.INFO)
    store = open_object_store(s3_server.config(bucket=BUCKET))
    source = tmp_path / "source"
    source.write_bytes(content(40 * MIB))
    tracemalloc.start()
    try:
        store.put_file("x/large", source)
        sent = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        store.get_file("x/large", tmp_path / "target")
        received = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    # What is on its way, and not the 40 MiB.
    assert sent < (s3_upload.AT_ONCE + 2) * PART
    assert received < PART
    told = [line for line in caplog.messages if line.startswith("uploading x/large: ")]
    assert len(told) == 9
    assert "41 of 41 MB" in told[-1]
    assert sum(line.startswith("downloading x/large: ") for line in caplog.messages) >= 8
    assert uploads(s3_server) == 0


@pytest.mark.usefixtures("small_parts")
def test_an_upload_whose_connections_break(s3_server: S3Server) -> None:
    data = content(3 * PART)
    with behind_forwarder(s3_server) as (store, _, forwarder):
        store.check()
        for lost in (b"partNumber=2", b"partNumber=4"):
            forwarder.lose_reply_to = lost
            store.put("x/a", data)
            assert forwarder.lose_reply_to is None
            assert store.get("x/a") == data


@pytest.mark.usefixtures("small_parts")
def test_an_upload_whose_last_answer_is_lost(s3_server: S3Server) -> None:
    """It is asked for again, and there is no such upload any more: the object is there."""
    data = content(PART + 1)
    with behind_forwarder(s3_server) as (store, _, forwarder):
        store.check()
        forwarder.lose_reply_to = b"<CompleteMultipartUpload"
        store.put("x/a", data)
        assert forwarder.lose_reply_to is None
        assert store.get("x/a") == data
    assert uploads(s3_server) == 0


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("done", [True, False])
def test_an_upload_that_the_server_has_forgotten(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """What AWS and MinIO say when they are asked again to complete what they have completed."""
    store = open_object_store(s3_server.config(bucket=BUCKET))
    store.put("x/a", b"old")
    real = Minio._complete_multipart_upload

    def complete(self: Minio, *arguments: Any) -> None:
        if done:
            real(self, *arguments)
        answer = HTTPResponse(status=404, headers={})
        raise S3Error(answer, "NoSuchUpload", "there is no such upload", "/x/a", "1", "2")

    monkeypatch.setattr(Minio, "_complete_multipart_upload", complete)
    data = content(2 * PART)
    if done:
        store.put("x/a", data)
        assert store.get("x/a") == data
    else:
        with pytest.raises(Unavailable, match="NoSuchUpload"):
            store.put("x/a", data)
        assert store.get("x/a") == b"old"


@pytest.mark.usefixtures("small_parts")
def test_an_upload_that_fails_leaves_the_old_object(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_object_store(s3_server.config(bucket=BUCKET))
    store.put("x/a", b"old")
    real = Minio._upload_part
    sent: list[int] = []

    def upload_part(self: Minio, *arguments: object) -> str:
        number = arguments[-1]
        assert isinstance(number, int)
        sent.append(number)
        if number == 2:
            raise ConnectionResetError("the network is gone")
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Minio, "_upload_part", upload_part)
    with pytest.raises(Unavailable, match="write 'x/a'"):
        store.put("x/a", content(9 * PART))
    assert store.get("x/a") == b"old"
    assert uploads(s3_server) == 0
    # The others were not sent in vain.
    assert max(sent) <= 2 + s3_upload.AT_ONCE


def test_old_uploads_that_broke_are_given_up(s3_server: S3Server) -> None:
    client = Minio(
        s3_server.endpoint,
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
        secure=False,
    )
    mine = open_object_store(s3_server.config(bucket=BUCKET, prefix="x/mine"))
    mine.check()
    client._create_multipart_upload(BUCKET, "x/mine/a", {})
    other = client._create_multipart_upload(BUCKET, "x/mine-too/a", {})
    assert mine.sweep(time.time() - 60) == 0
    assert uploads(s3_server) == 2
    assert mine.sweep(time.time() + 60) == 1
    assert uploads(s3_server) == 1
    client._abort_multipart_upload(BUCKET, "x/mine-too/a", other)
