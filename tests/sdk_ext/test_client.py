"""`connect()` says which variable is missing or wrong."""

from __future__ import annotations

import pytest

from tuft_sdk import ConfigurationError, connect


@pytest.mark.parametrize(
    ("url", "key", "names"),
    [
        ("", "tml-k", "TINKER_BASE_URL is not set"),
        ("localhost:8080", "tml-k", "TINKER_BASE_URL is 'localhost:8080'"),
        ("http://h", "", "TINKER_API_KEY is not set"),
        ("http://h", "secret", "TINKER_API_KEY must begin with 'tml-'"),
    ],
)
def test_a_wrong_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, key: str, names: str
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", url)
    monkeypatch.setenv("TINKER_API_KEY", key)
    with pytest.raises(ConfigurationError, match=names) as caught:
        connect()
    assert "secret" not in str(caught.value)


def test_it_takes_both_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://host:1/")
    monkeypatch.setenv("TINKER_API_KEY", "tml-k")
    with connect() as client:
        assert client.base_url == "http://host:1"
