"""What only this machine has, brought to the object store: then a store can go elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tuft.checkpoints import Checkpoints
from tuft.checkpoints.handover import Handover
from tuft.config import LimitsConfig
from tuft.contracts.records import Disposable
from tuft.errors import ConfigError, NotFound
from tuft.objects import LocalObjects, ObjectStore
from tuft.store import keys
from tuft.store.connection import Connection, blob, items
from tuft.store.disposal import Disposal
from tuft.store_tools.transfer import key_names

_SNAPSHOTS = ("snapshot", "snapshot_before")


def leave_machine(
    connection: Connection, objects: ObjectStore | None, state_folder: Path, limits: LimitsConfig
) -> int:
    """Copy local snapshots, and policies on their way, to the object store, and have the store
    name them there. Returns how many went. May be repeated; the service here goes on with it.

    Raises:
        ConfigError: there are some, and no object store is named.
        DamagedCheckpoint: a run has no snapshot that can be read.
    """
    found = [(key, field) for key in _runs(connection) for field in _local(connection, key)]
    handover = Handover(state_folder / "handover")
    waiting = handover.waiting()
    if not found and not waiting:
        return 0
    if objects is None:
        raise ConfigError(
            f"{len(found)} snapshots and {len(waiting)} policies are on this machine only, and have "
            "to go to the object store: name it, by --model-config and where that needs it "
            "--checkpoint-dir"
        )
    local = Checkpoints(LocalObjects(state_folder / "snapshots"))
    for key, field in found:
        _move_snapshot(connection, local, Checkpoints(objects), key, field)
    for prefix in waiting:
        _upload(connection, objects, handover, prefix, limits)
    return len(found) + len(waiting)


def _runs(connection: Connection) -> list[str]:
    prefix = keys.run("")
    return [name for name in key_names(connection) if name.startswith(prefix)]


def _local(connection: Connection, key: str) -> list[str]:
    found = items(connection.call("HMGET", key, *_SNAPSHOTS))
    named = zip(_SNAPSHOTS, found, strict=True)
    return [field for field, value in named if value is not None and _record(value).get("local")]


def _record(value: object) -> dict[str, object]:
    record: dict[str, object] = json.loads(blob(value))
    return record


def _move_snapshot(
    connection: Connection, local: Checkpoints, remote: Checkpoints, key: str, field: str
) -> None:
    record = _record(connection.call("HGET", key, field))
    prefix = str(record["prefix"])
    try:
        manifest, files = local.read(prefix)
    except NotFound:
        if field == _SNAPSHOTS[0]:
            raise
        # Where room is short only the newest one is kept.
        connection.call("HDEL", key, field)
        return
    remote.write(manifest, files, prefix=prefix, overwrite=True)
    connection.call("HSET", key, field, json.dumps({**record, "local": False}))


def _upload(
    connection: Connection,
    objects: ObjectStore,
    handover: Handover,
    prefix: str,
    limits: LimitsConfig,
) -> None:
    handed = handover.get(prefix)
    if handed is None:
        return
    files = {name: bytes(data) for name, data in handed.files.items()}
    policy = Disposable(key=prefix, folder=True, session_id=handed.manifest.run.session_id)
    Disposal(connection).schedule(policy, time.time() + limits.policy_ttl_s)
    Checkpoints(objects).write(handed.manifest, files, prefix=prefix)
    handover.uploaded(prefix)
