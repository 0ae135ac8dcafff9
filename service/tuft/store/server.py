"""Whether a server that someone else set up can be the store."""

from __future__ import annotations

from tuft.errors import ConfigError
from tuft.store.connection import Connection, text

_OLDEST = (7, 0)


def check_server(connection: Connection) -> list[str]:
    """Ask the server about itself, and `judge` what it says. Raises Unavailable beside."""
    said = [text(connection.call("INFO", part)) for part in ("server", "memory", "persistence")]
    return judge("\n".join(said))


def judge(said: str) -> list[str]:
    """Warnings for the operator: how the server's settings weaken what the service promises.

    Args:
        said: the reply to INFO with the sections server, memory and persistence.

    Raises:
        ConfigError: it is a cluster, or older than Redis 7.0 (every Valkey is new enough).
    """
    info = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    if "cluster" in (info.get("redis_mode"), info.get("server_mode")):
        raise ConfigError(
            "persistence.redis_url is a cluster; the store needs one Valkey or Redis "
            "(a primary with replicas is one)"
        )
    version = info["redis_version"]
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise ConfigError(
            f"persistence.redis_url is Redis {version}; the store needs 7.0 or newer, or Valkey"
        )
    found = []
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f"maxmemory-policy of the store is {policy}: at its memory limit it drops acknowledged "
            "operations; set it to noeviction"
        )
    if info.get("aof_enabled") == "0":
        found.append(
            "the store has no append-only file: when it dies, acknowledged operations are lost; "
            "set appendonly yes and appendfsync always"
        )
    return found
