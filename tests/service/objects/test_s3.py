"""What only the S3 backend can get wrong: credentials, buckets, a server that is away."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.forwarder import forwarding
from tests.helpers.s3_server import (
    GUEST_ACCESS_KEY,
    GUEST_BUCKET,
    GUEST_SECRET_KEY,
    S3Server,
)
from tuft.config import ObjectStoreConfig
from tuft.errors import ConfigError, Unavailable
from tuft.objects import open_object_store, s3_http

_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "MINIO_ACCESS_KEY",
    "MINIO_SECRET_KEY",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_bucket_is_made_where_it_is_missing(s3_server: S3Server) -> None:
    store = open_object_store(s3_server.config(bucket="made-on-demand"))
    store.check()
    store.put("a", b"x")
    again = open_object_store(s3_server.config(bucket="made-on-demand"))
    assert again.get("a") == b"x"


def test_a_bucket_that_may_not_be_made(s3_server: S3Server) -> None:
    guest = s3_server.config(
        bucket=GUEST_BUCKET, access_key=GUEST_ACCESS_KEY, secret_key=GUEST_SECRET_KEY
    )
    with pytest.raises(ConfigError, match=f"{GUEST_BUCKET}.*may not create it"):
        open_object_store(guest).put("a", b"x")
    open_object_store(s3_server.config(bucket=GUEST_BUCKET)).check()
    store = open_object_store(guest)
    store.put("a", b"x")
    assert store.get("a") == b"x"


@pytest.mark.parametrize(
    ("access_key", "secret_key", "code"),
    [
        (None, "wrong", "SignatureDoesNotMatch"),
        ("nobody", None, "InvalidAccessKeyId"),
        (GUEST_ACCESS_KEY, GUEST_SECRET_KEY, "AccessDenied"),
    ],
)
def test_wrong_credentials(
    s3_server: S3Server, access_key: str | None, secret_key: str | None, code: str
) -> None:
    store = open_object_store(s3_server.config(access_key=access_key, secret_key=secret_key))
    for use in (store.check, lambda: store.put("a", b"x"), lambda: list(store.list(""))):
        with pytest.raises(ConfigError, match=f"refuses the credentials.*{code}.*access_key"):
            use()


def test_credentials_from_the_environment(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    config = ObjectStoreConfig(
        kind="s3", endpoint=s3_server.endpoint, bucket="from-environment", secure=False
    )
    with pytest.raises(ConfigError, match=r"AWS_ACCESS_KEY_ID.*MINIO_ACCESS_KEY"):
        open_object_store(config)
    for access, secret in (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
    ):
        with monkeypatch.context() as environment:
            environment.setenv(access, s3_server.access_key)
            environment.setenv(secret, s3_server.secret_key)
            open_object_store(config).put("a", b"x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"access_key": "only"}, "access_key and secret_key go together"),
        ({"secret_key": "only"}, "access_key and secret_key go together"),
        ({"bucket": "Not/A/Bucket"}, r"object_store\.bucket"),
        ({"bucket": "x"}, r"object_store\.bucket"),
        ({"endpoint": "host:port:port"}, r"object_store\.endpoint"),
        ({"endpoint": "host/path"}, r"object_store\.endpoint"),
        ({"prefix": "a//b"}, r"object_store\.prefix"),
    ],
)
def test_a_malformed_configuration(changes: dict[str, str], message: str) -> None:
    base = {"kind": "s3", "endpoint": "localhost:1", "bucket": "tests"}
    if "access_key" not in changes and "secret_key" not in changes:
        base |= {"access_key": "a", "secret_key": "b"}
    with pytest.raises(ConfigError, match=message):
        open_object_store(ObjectStoreConfig.model_validate(base | changes))


def test_a_server_that_goes_away_and_comes_back(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_http, "_FIRST_PAUSE_S", 0.05)
    port = free_port()
    config = s3_server.config(endpoint=f"127.0.0.1:{port}", bucket="away")
    # Opened while the server is away: a service must start all the same.
    store = open_object_store(config)
    for use in (store.check, lambda: store.put("a", b"x"), lambda: store.get("a")):
        before = time.monotonic()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port} did not answer"):
            use()
        assert time.monotonic() - before < 10
    with forwarding(s3_server.endpoint, port):
        store.put("a", b"x")
        assert store.get("a") == b"x"
    with pytest.raises(Unavailable, match="did not answer"):
        store.get("a")
    with pytest.raises(Unavailable, match="did not answer"):
        store.exists("a")
    with pytest.raises(Unavailable, match="did not answer"):
        list(store.list(""))


def test_an_endpoint_that_is_no_s3_server(s3_server: S3Server, tmp_path: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"127.0.0.1:{server.server_port}"
        with pytest.raises(Unavailable, match=f"{endpoint}.*non-XML response"):
            open_object_store(s3_server.config(endpoint=endpoint)).check()
        server.shutdown()


def test_https_to_a_plain_server(s3_server: S3Server) -> None:
    config = s3_server.config().model_copy(update={"secure": True})
    with pytest.raises(ConfigError, match=r"no TLS connection.*object_store\.secure: false"):
        open_object_store(config).check()


def test_a_bucket_that_is_gone(s3_server: S3Server) -> None:
    from minio import Minio

    store = open_object_store(s3_server.config(bucket="short-lived"))
    store.check()
    Minio(
        s3_server.endpoint,
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
        secure=False,
    ).remove_bucket("short-lived")
    with pytest.raises(Unavailable, match="'short-lived' is gone"):
        list(store.list(""))
    store.check()
    store.put("a", b"x")
    assert store.get("a") == b"x"
