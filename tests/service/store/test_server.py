"""What is said of a server that someone else set up."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.service.store.servers import server
from tests.waiting import wait_until
from tuft.errors import ConfigError
from tuft.store import EmbeddedStore, Store, connect
from tuft.store.server import judge


def _warnings(client: redis.Redis, **settings: str) -> list[str]:
    for name, value in settings.items():
        client.config_set(name.replace("_", "-"), value)
    return Store(client).check_server()


def test_a_durable_server_is_fine(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        assert Store(connect(running.url)).check_server() == []


def test_each_setting_that_loses_data_is_told_with_what_it_loses(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        client = connect(running.url)
        (only,) = _warnings(client)
        assert "no append-only file: when it ends, all sessions and training runs are lost" in only
        (only,) = _warnings(client, save="3600 1 300 100")
        assert "since its last save are lost, which may be 3600 seconds" in only
        # Without a limit nothing is ever evicted.
        assert _warnings(client, save="", maxmemory_policy="allkeys-lru") == _warnings(client)
        first, _ = _warnings(client, maxmemory="1gb")
        assert "allkeys-lru: at its memory limit it drops acknowledged operations" in first
        first, _ = _warnings(client, maxmemory_policy="volatile-ttl")
        assert "it drops results that clients have not fetched yet" in first


def test_when_the_file_is_synced_counts(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        client = connect(running.url)
        (only,) = _warnings(client, appendfsync="everysec")
        assert "when its machine dies (power, kernel), up to 2 seconds" in only
        (only,) = _warnings(client, appendfsync="no")
        assert "30 seconds" in only
        (only,) = _warnings(client, appendfsync="always", no_appendfsync_on_rewrite="yes")
        assert "while the append-only file is rewritten" in only


def test_a_failover_may_lose_what_replicas_have_not_got(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as primary:
        client = connect(primary.url)
        client.config_set("repl-diskless-sync-delay", 0)
        port = _listen(primary)
        with server(tmp_path / "replica", durable=True) as second:
            replica = connect(second.url)
            replica.replicaof("127.0.0.1", port)
            wait_until(lambda: client.info("replication")["connected_slaves"] == 1, 20)
            (only,) = _warnings(client)
            assert "as many as the replica is behind, without a bound" in only
            (only,) = _warnings(client, min_replicas_to_write="1", min_replicas_max_lag="7")
            assert "loses up to 7 seconds" in only
            wait_until(lambda: replica.exists("tuft:schema"), 20)
            (only,) = _warnings(replica)
            assert f"replica of 127.0.0.1:{port} and takes no writes" in only


def _listen(embedded: EmbeddedStore) -> int:
    """Have it listen on a TCP port, too."""
    from tuft.supervisor.tree import free_port

    port = free_port()
    connect(embedded.url).config_set("port", port)
    return port


def test_what_cannot_be_seen_is_said(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        client = connect(running.url)
        client.acl_setuser(
            "default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"]
        )
        (only,) = Store(connect(running.url)).check_server()
        assert "CONFIG GET is not allowed" in only
        assert "appendfsync can't be seen" in only
        client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["-info"])
        (only,) = Store(connect(running.url)).check_server()
        assert "INFO is not allowed" in only


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("redis_version:7.2.4\r\nredis_mode:cluster\r\n", "cluster"),
        ("redis_version:6.2.14\r\nredis_mode:standalone\r\n", "Redis 6.2.14"),
    ],
)
def test_servers_that_cannot_be_the_store(said: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        judge(said, {})


def test_a_write_that_failed_is_told() -> None:
    said = "redis_version:7.2.4\r\naof_enabled:1\r\naof_last_write_status:err\r\n"
    (only,) = judge(said, {"appendfsync": "always"})
    assert "disk is full" in only
