"""The URL that `tuft` prints, and asks for the service's health."""

from __future__ import annotations

import pytest

from tuft.supervisor.tree import url_of


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("tuft.example", "http://tuft.example:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_the_url_is_one_that_clients_can_use(host: str, url: str) -> None:
    assert url_of(host, 80) == url
