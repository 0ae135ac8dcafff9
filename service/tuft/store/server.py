"""Whether a server that someone else set up can be the store, and what it may lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import redis.exceptions

from tuft.errors import ConfigError
from tuft.store.connection import Connection, items, text

_OLDEST = (7, 0)
_SECTIONS = ("server", "memory", "persistence", "replication")
_SETTINGS = (
    "appendfsync",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "no-appendfsync-on-rewrite",
    "save",
)


def check_server(connection: Connection) -> list[str]:
    """Ask the server about itself, and `judge` what it says. Raises Unavailable beside."""
    try:
        info = "\n".join(text(connection.call("INFO", part)) for part in _SECTIONS)
    except redis.exceptions.ResponseError as error:
        blind = (
            f"INFO is not allowed on the store ({error}), so nothing can be said of how lasting "
            "it is. Acknowledged operations are safe only with appendonly yes, appendfsync always "
            "and maxmemory-policy noeviction"
        )
        return [blind]
    try:
        said = items(connection.call("CONFIG", "GET", *_SETTINGS))
    except redis.exceptions.ResponseError as error:
        return judge(info, None, str(error))
    return judge(info, {text(said[i]): text(said[i + 1]) for i in range(0, len(said), 2)})


def judge(info: str, settings: Mapping[str, str] | None, why_none: str = "") -> list[str]:
    """Warnings for the operator: how the server's settings weaken what the service promises.

    Args:
        info: the reply to INFO with the sections server, memory, persistence and replication.
        settings: the reply to CONFIG GET; None where it is not allowed, for the reason `why_none`.

    Raises:
        ConfigError: it is a cluster, or older than Redis 7.0 (every Valkey is new enough).
    """
    found = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if "cluster" in (found.get("redis_mode"), found.get("server_mode")):
        raise ConfigError(
            "persistence.redis_url is a cluster; the store needs one Valkey or Redis "
            "(a primary with replicas is one)"
        )
    version = found["redis_version"]
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise ConfigError(
            f"persistence.redis_url is Redis {version}; the store needs 7.0 or newer, or Valkey"
        )
    warnings = [*_memory(found), *_health(found), *_file(found, settings)]
    warnings += _replicas(found, settings)
    if settings is None:
        warnings.append(
            f"CONFIG GET is not allowed on the store ({why_none}), so its appendfsync can't be "
            "seen. Unless that is always, operations acknowledged in the last seconds are lost "
            "when its machine dies"
        )
    return warnings


def _memory(info: Mapping[str, str]) -> Iterator[str]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return
    lost = "acknowledged operations and whole training runs"
    if policy.startswith("volatile"):
        lost = "results that clients have not fetched yet"
    yield (
        f"maxmemory-policy of the store is {policy}: at its memory limit it drops {lost}. Set it "
        "to noeviction: then new requests wait instead"
    )


def _health(info: Mapping[str, str]) -> Iterator[str]:
    if info.get("role") == "slave":
        yield (
            f"the store is a replica of {info.get('master_host')}:{info.get('master_port')} and "
            "takes no writes: every request has to wait. persistence.redis_url must name the "
            "primary"
        )
    for field, what in (
        ("aof_last_write_status", "write to its append-only file"),
        ("aof_last_bgrewrite_status", "rewrite of its append-only file"),
        ("rdb_last_bgsave_status", "save to its disk"),
    ):
        if info.get(field, "ok") != "ok":
            yield (
                f"the store's last {what} failed (its log says why; most likely its disk is full): "
                "requests may have to wait, and what was written since is lost when it dies"
            )


def _file(info: Mapping[str, str], settings: Mapping[str, str] | None) -> Iterator[str]:
    if info.get("aof_enabled") == "0":
        yield (
            f"the store has no append-only file: {_lost_without_file(settings)}. Set appendonly "
            "yes and appendfsync always"
        )
        return
    if settings is None:
        return
    fsync = settings.get("appendfsync", "always")
    if fsync != "always":
        lost = "up to 2 seconds" if fsync == "everysec" else "often 30 seconds and more"
        yield (
            f"appendfsync of the store is {fsync}: when its machine dies (power, kernel), {lost} "
            "of acknowledged operations are lost; when only its process dies, none are. Set it "
            "to always"
        )
    if settings.get("no-appendfsync-on-rewrite") == "yes":
        yield (
            "no-appendfsync-on-rewrite of the store is yes: when its machine dies while the "
            "append-only file is rewritten, operations acknowledged since that began are lost. "
            "Set it to no"
        )


def _lost_without_file(settings: Mapping[str, str] | None) -> str:
    points = (settings or {}).get("save", "").split()
    if settings is None:
        return "when it dies, operations acknowledged since its last save (or all) are lost"
    if not points:
        return "when it ends, all sessions and training runs are lost (checkpoints are kept)"
    longest = max(int(seconds) for seconds in points[::2])
    return (
        "when it dies, operations acknowledged since its last save are lost, which may be "
        f"{longest} seconds of them (save {' '.join(points)}), and runs may go back to a state "
        "that results were given out for"
    )


def _replicas(info: Mapping[str, str], settings: Mapping[str, str] | None) -> Iterator[str]:
    replicas = int(info.get("connected_slaves", "0"))
    if replicas == 0 or info.get("role") == "slave":
        return
    begin = f"the store has {replicas} replica(s), which get writes after they were acknowledged: "
    waits_for = 0 if settings is None else int(settings.get("min-replicas-to-write", "0"))
    if waits_for > 0:
        lag = "" if settings is None else settings.get("min-replicas-max-lag", "10")
        yield (
            f"{begin}a failover loses up to {lag} seconds of acknowledged operations "
            "(min-replicas-max-lag)"
        )
    else:
        yield (
            f"{begin}a failover loses acknowledged operations, as many as the replica is behind, "
            "without a bound. min-replicas-to-write 1 bounds it to min-replicas-max-lag seconds"
        )
