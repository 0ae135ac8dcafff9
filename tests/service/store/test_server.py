"""What is said of a server that someone else set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.store.servers import server
from tuft.errors import ConfigError
from tuft.store import Store, connect
from tuft.store.server import judge


def test_a_durable_server_is_fine(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        assert Store(connect(running.url)).check_server() == []


def test_settings_that_lose_data_are_named(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        client = connect(running.url)
        (only,) = Store(client).check_server()
        assert "no append-only file" in only
        client.config_set("maxmemory-policy", "allkeys-lru")
        first, second = Store(client).check_server()
        assert "allkeys-lru" in first
        assert second == only


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("redis_version:7.2.4\r\nredis_mode:cluster\r\n", "cluster"),
        ("redis_version:6.2.14\r\nredis_mode:standalone\r\n", "Redis 6.2.14"),
    ],
)
def test_servers_that_cannot_be_the_store(said: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        judge(said)
