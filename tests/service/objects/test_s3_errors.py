"""What went wrong is told apart, and says what would be right."""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import minio.time
import pytest

from tests.helpers.s3_server import S3Server
from tests.service.objects.test_s3 import free_port
from tuft.config import ObjectStoreConfig
from tuft.errors import ConfigError, NotFound, StorageFull, TuftError, Unavailable
from tuft.objects import ObjectStore, open_object_store, s3_http

EMPTY = b"<ListBucketResult><Name>tests</Name><IsTruncated>false</IsTruncated></ListBucketResult>"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_http, "_FIRST_PAUSE_S", 0.0)


def store_at(endpoint: str) -> ObjectStore:
    return open_object_store(
        ObjectStoreConfig(
            kind="s3",
            endpoint=endpoint,
            bucket="tests",
            secure=False,
            access_key="a",
            secret_key="b",
            region="us-east-1",
        )
    )


@contextmanager
def answering(
    status: int, code: str, listing: bytes = EMPTY
) -> Iterator[tuple[ObjectStore, list[str]]]:
    """A server that lists an empty bucket and answers all else so."""
    failure = f"<Error><Code>{code}</Code><Message>said the server</Message></Error>".encode()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200, listing)

        def do_PUT(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(status, failure)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield store_at(f"127.0.0.1:{server.server_port}"), asked
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "kind", "message", "tries"),
    [
        (403, "AccessDenied", ConfigError, "refuses the credentials for bucket 'tests'", 1),
        (403, "ExpiredToken", ConfigError, "refuses the credentials.*access_key", 1),
        (403, "RequestTimeTooSkewed", Unavailable, "here it is .*, there .* GMT; set the clock", 1),
        (400, "AuthorizationHeaderMalformed", ConfigError, r"object_store\.region", 1),
        (404, "NoSuchBucket", Unavailable, "bucket 'tests' is gone", 1),
        (404, "NoSuchKey", NotFound, "no such object", 1),
        (507, "XMinioStorageFull", StorageFull, "has no room.*delete checkpoints", 1),
        (409, "XMinioAdminBucketQuotaExceeded", StorageFull, "has no room", 1),
        (503, "SlowDown", Unavailable, "has too much to do", s3_http.TRIES),
        (500, "InternalError", Unavailable, "failed .*InternalError: said the server", 4),
    ],
)
def test_what_a_server_may_say(
    status: int, code: str, kind: type[TuftError], message: str, tries: int
) -> None:
    with answering(status, code) as (store, asked):
        with pytest.raises(kind, match=message):
            store.put("a", b"x")
        assert len(asked) == tries


def test_clocks_that_differ(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_object_store(s3_server.config())
    store.check()
    real = minio.time.utcnow
    monkeypatch.setattr(minio.time, "utcnow", lambda: real() - datetime.timedelta(hours=1))
    with pytest.raises(Unavailable, match="clock and this machine's differ"):
        store.put("a", b"x")
    monkeypatch.undo()
    store.put("a", b"x")


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("no-such-host.invalid:9000", "did not answer .*name can't be resolved"),
        (f"127.0.0.1:{free_port()}", "did not answer .*can't be connected; is it up"),
    ],
)
def test_servers_that_cannot_be_reached(endpoint: str, message: str) -> None:
    with pytest.raises(Unavailable, match=message):
        store_at(endpoint).check()


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_http, "READ_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match="it was connected, and said nothing"):
            store_at(endpoint).check()


@pytest.mark.parametrize("listing", [b"<What/>", b"not even XML"])
def test_an_answer_that_is_no_s3_servers(listing: bytes) -> None:
    with (
        answering(200, "", listing) as (store, _),
        pytest.raises(Unavailable, match=r"object_store\.endpoint is that of an S3 server"),
    ):
        store.check()


def test_a_file_that_cannot_be_written(s3_server: S3Server, tmp_path: Path) -> None:
    store = open_object_store(s3_server.config())
    store.put("a", b"x")
    with pytest.raises(Unavailable, match=r"can't read 'a' into .*No such file"):
        store.get_file("a", tmp_path / "no" / "folder")


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pauses = [[s3_http.pause_s(failures) for _ in range(200)] for failures in (0, 1, 2, 10)]
    for low, high, found in zip((0.1, 0.2, 0.4, 1), (0.2, 0.4, 0.8, 2), pauses, strict=True):
        assert low <= min(found) < max(found) <= high
        assert len(set(found)) > 100
