"""Retries against a real HTTP server: what is retried, what not, and for how long."""

from __future__ import annotations

import json
import socket
import time

import pytest

from tests.sdk_ext.web import Answer, web
from tuft_sdk import ConfigurationError, LeaseLost, NotThere, Rejected, Transient
from tuft_sdk.extension import ExtensionClient


def _error(status: int, code: str, detail: str = "no") -> Answer:
    return Answer(status, json.dumps({"detail": detail, "code": code}).encode())


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_transient_status_is_retried(status: int) -> None:
    with (
        web(Answer(status), Answer(200, b'{"a": 1}')) as site,
        ExtensionClient(site.url, "tml-k", headers={"X-Tuft-Writer-Epoch": "3"}) as client,
    ):
        assert client.request("POST", "tuft/x", json={"b": 2}).json() == {"a": 1}
    assert [seen.path for seen in site.seen] == ["/api/v1/tuft/x"] * 2
    for seen in site.seen:
        assert json.loads(seen.body) == {"b": 2}
        assert seen.headers["x-api-key"] == "tml-k"
        assert seen.headers["x-tuft-writer-epoch"] == "3"


def test_retry_after_is_honoured() -> None:
    with (
        web(Answer(503, headers={"Retry-After": "1"}), Answer(200)) as site,
        ExtensionClient(site.url, "tml-k") as client,
    ):
        begun = time.monotonic()
        client.request("GET", "x")
    assert time.monotonic() - begun > 0.75


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", Rejected),
        (400, "stale_writer", LeaseLost),
        (401, "unauthenticated", ConfigurationError),
        (404, "not_found", NotThere),
    ],
)
def test_a_final_status_is_raised_at_once(status: int, code: str, kind: type[Exception]) -> None:
    with (
        web(_error(status, code, "the reason")) as site,
        ExtensionClient(site.url, "tml-k") as client,
        pytest.raises(kind, match="the reason") as caught,
    ):
        client.request("GET", "x")
    assert len(site.seen) == 1
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_it_gives_up_after_the_deadline() -> None:
    with (
        web(Answer(503)) as site,
        ExtensionClient(site.url, "tml-k", deadline_s=0.8) as client,
    ):
        begun = time.monotonic()
        with pytest.raises(Transient, match="503"):
            client.request("GET", "x")
    assert time.monotonic() - begun < 5
    assert len(site.seen) > 1


def test_a_refused_connection_is_transient() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            ExtensionClient(url, "tml-k", deadline_s=0.3) as client,
            pytest.raises(Transient, match="no connection"),
        ):
            client.request("GET", "x")


def test_a_path_prefix_of_the_address_is_kept() -> None:
    with web(Answer(200)) as site, ExtensionClient(site.url + "/pre/", "tml-k") as client:
        client.request("GET", "x")
    assert site.seen[0].path == "/pre/api/v1/x"
