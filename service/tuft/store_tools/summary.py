"""What is in a store, in a few numbers."""

from __future__ import annotations

from collections import Counter

import redis.exceptions

from tuft.store import keys
from tuft.store.connection import Connection, integer, items, number, text
from tuft.store.schema import VERSION, read_version
from tuft.store.workers import Workers
from tuft.store_tools.transfer import key_names

# One key each of what is counted.
_COUNTED = {
    "sessions": "tuft:session:",
    "training_runs": keys.run(""),
    "samplers": keys.SAMPLER_PREFIX,
    "checkpoints": keys.checkpoint(""),
    "results_kept_or_awaited": keys.FUTURE_PREFIX,
    "steps": "tuft:ledger:",
}


def summarize(connection: Connection) -> dict[str, object]:
    """Counts, sizes and workers. Reads every key's name once."""
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
    summed = Counter({"operations_pending": 0, "samples_waiting": 0, "samples_running": 0})
    keys_total = runs_pending = 0
    for name in key_names(connection):
        keys_total += 1
        counts.update(what for what, prefix in _COUNTED.items() if name.startswith(prefix))
        if name.startswith(keys.tenant_pending("")):
            summed["operations_pending"] += integer(connection.call("GET", name))
        elif name.startswith(keys.sample_waiting("")):
            summed["samples_waiting"] += integer(connection.call("GET", name))
        elif name.startswith(keys.samples("")):
            summed["samples_running"] += integer(connection.call("XLEN", name))
        elif name.startswith(keys.pending_runs("")):
            runs_pending += integer(connection.call("ZCARD", name))
    return {
        "server": _server(connection),
        "version": read_version(connection),
        "newest_version_known": VERSION,
        "keys": keys_total,
        **counts,
        "training_runs_with_something_pending": runs_pending,
        **summed,
        "to_be_removed_from_the_object_store": integer(connection.call("ZCARD", keys.DISPOSAL)),
        "last_request_at": _last_request(connection),
        "workers": [
            f"{status.role} of {status.base_model}: {status.state}"
            for status in Workers(connection).statuses()
        ],
    }


def _server(connection: Connection) -> dict[str, str]:
    try:
        said = "\n".join(
            text(connection.call("INFO", part)) for part in ("server", "memory", "persistence")
        )
    except redis.exceptions.ResponseError as error:
        return {"unknown": str(error)}
    found = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    version = found.get("valkey_version")
    name = f"Valkey {version}" if version else f"Redis {found.get('redis_version')}"
    about = {"name": name, "memory": found.get("used_memory_human", "?")}
    if "aof_current_size" in found:
        about["append_only_file"] = f"{int(found['aof_current_size']) / 2**20:.1f} MiB"
    return about


def _last_request(connection: Connection) -> float | None:
    """Of training; seconds since the epoch."""
    newest = 0.0
    for name in key_names(connection):
        if name.startswith(keys.run("")):
            (found,) = items(connection.call("HMGET", name, "last_request_at"))
            newest = max(newest, 0.0 if found is None else number(found))
    return newest or None
