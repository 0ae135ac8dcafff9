"""Index of checkpoints: what is in the object store, for lists without scanning it.

Also who uses them, and when they end.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple, cast

from tuft.contracts.records import CheckpointKind, CheckpointRecord
from tuft.errors import NotFound
from tuft.store import keys
from tuft.store.connection import Connection, blob, integer, mapping, text, texts
from tuft.store.values import Effect


class Place(NamedTuple):
    """Which checkpoint."""

    run_id: str
    kind: CheckpointKind
    name: str


class CheckpointIndex:
    """Checkpoint records. The manifests in the object store are the truth, this follows.

    A deleted one is in no list; its record stays until its files are gone.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def effects(self, record: CheckpointRecord) -> list[Effect]:
        """What indexes a checkpoint together with the completion of the operation that made it."""
        name = _name(*place_of(record))
        score = repr(record.manifest.created_at)
        effects: list[Effect] = [["SET", keys.checkpoint(name), record.model_dump_json()]]
        end = _end_of(record)
        if end is not None:
            effects.append(["ZADD", keys.CHECKPOINT_ENDS, repr(end), name])
        if record.settings.deleted_at is None:
            effects += [["ZADD", index, score, name] for index in _lists(record)]
        return effects

    def put(self, record: CheckpointRecord) -> None:
        """Index a checkpoint, in place of what was under its name."""
        name = _name(*place_of(record))
        commands = self.effects(record)
        if _end_of(record) is None:
            commands.append(["ZREM", keys.CHECKPOINT_ENDS, name])
        if record.settings.deleted_at is not None:
            commands += [["ZREM", index, name] for index in _lists(record)]
        self._connection.write(*commands)

    def get(self, run_id: str, kind: CheckpointKind, name: str) -> CheckpointRecord:
        """Raises: NotFound."""
        found = self._connection.call("GET", keys.checkpoint(_name(run_id, kind, name)))
        if found is None:
            raise NotFound(f"no checkpoint tinker://{run_id}/{kind}/{name}")
        return CheckpointRecord.model_validate_json(blob(found))

    def remove(self, run_id: str, kind: CheckpointKind, name: str) -> None:
        """Take a checkpoint out of the index; nothing happens where it is not there."""
        full = _name(run_id, kind, name)
        found = self._connection.call("GET", keys.checkpoint(full))
        lists = [] if found is None else _lists(CheckpointRecord.model_validate_json(blob(found)))
        names = (keys.checkpoint, keys.checkpoint_users, keys.checkpoint_removal)
        self._connection.write(
            ["DEL", *(key(full) for key in names)],
            ["ZREM", keys.CHECKPOINT_ENDS, full],
            *(["ZREM", index, full] for index in lists),
        )

    def ending(self, now: float, limit: int) -> list[Place]:
        """Up to `limit` checkpoints that are to be removed at `now`, the longest overdue first."""
        found = self._connection.call(
            "ZRANGE", keys.CHECKPOINT_ENDS, "-inf", now, "BYSCORE", "LIMIT", 0, limit
        )
        return [_place(name) for name in texts(found)]

    def end_later(self, place: Place, when: float) -> None:
        """Have `ending` tell a checkpoint again at that time."""
        self._connection.call("ZADD", keys.CHECKPOINT_ENDS, "XX", repr(when), _name(*place))

    def forget_end(self, place: Place) -> None:
        """The checkpoint is not to be removed."""
        self._connection.call("ZREM", keys.CHECKPOINT_ENDS, _name(*place))

    def claim_removal(self, place: Place, ttl_s: float) -> bool:
        """Whether the caller is the one to remove the files; `remove` ends it, or giving it up.

        Two that remove the same would, in the end, remove what was written under its name since.
        """
        name, holder = keys.checkpoint_removal(_name(*place)), uuid.uuid4().hex
        self._connection.call("SET", name, holder, "NX", "PX", round(ttl_s * 1000))
        # The answer to a SET that was sent twice would be that somebody has it.
        found = self._connection.call("GET", name)
        return found is not None and text(found) == holder

    def give_up_removal(self, place: Place) -> None:
        """Others may remove the files; the caller has claimed it, and has ended."""
        self._connection.call("DEL", keys.checkpoint_removal(_name(*place)))

    def enter_user(self, place: Place, user: str, since: float) -> int:
        """Note who may read the files from now on; how many are entered."""
        name = keys.checkpoint_users(_name(*place))
        return integer(self._connection.write(["ZADD", name, since, user], ["ZCARD", name])[1])

    def leave_user(self, place: Place, user: str) -> None:
        """It does not read them any more."""
        self._connection.call("ZREM", keys.checkpoint_users(_name(*place)), user)

    def users(self, place: Place) -> dict[str, float]:
        """Who was entered, and when."""
        name = keys.checkpoint_users(_name(*place))
        found = mapping(self._connection.call("ZRANGE", name, 0, -1, "WITHSCORES"))
        return {user: float(since) for user, since in found.items()}

    def scanned(self) -> str | None:
        """The object store whose checkpoints were all put into the index; None: of none."""
        found = self._connection.call("GET", keys.SCANNED)
        return None if found is None else text(found)

    def set_scanned(self, where: str) -> None:
        """From now on the index has all checkpoints of this object store."""
        self._connection.call("SET", keys.SCANNED, where)

    def list_run(self, run_id: str) -> list[CheckpointRecord]:
        """All checkpoints of a run, newest first."""
        return self._page(keys.run_checkpoints(run_id), 0, -1)[0]

    def list_tenant(
        self, tenant: str, limit: int, offset: int
    ) -> tuple[list[CheckpointRecord], int]:
        """A page of the tenant's checkpoints, newest first, and how many there are in all."""
        index = keys.tenant_checkpoints(tenant)
        if limit <= 0:
            return [], integer(self._connection.call("ZCARD", index))
        return self._page(index, offset, offset + limit - 1)

    def _page(self, index: str, first: int, last: int) -> tuple[list[CheckpointRecord], int]:
        names, total = self._connection.read(
            ["ZRANGE", index, first, last, "REV"], ["ZCARD", index]
        )
        gets = [["GET", keys.checkpoint(name)] for name in texts(names)]
        found = self._connection.read(*gets) if gets else []
        # One that was removed since the index was read is left out.
        records = [
            CheckpointRecord.model_validate_json(blob(record))
            for record in found
            if record is not None
        ]
        return records, integer(total)


def place_of(record: CheckpointRecord) -> Place:
    """Which checkpoint a record is of."""
    manifest = record.manifest
    return Place(manifest.run.run_id, manifest.kind, manifest.name)


def _name(run_id: str, kind: CheckpointKind, name: str) -> str:
    return f"{run_id}/{kind}/{name}"


def _place(name: str) -> Place:
    run_id, kind, last = name.rsplit("/", 2)
    return Place(run_id, cast("CheckpointKind", kind), last)


def _lists(record: CheckpointRecord) -> list[str]:
    run = record.manifest.run
    return [keys.run_checkpoints(run.run_id), keys.tenant_checkpoints(run.tenant)]


def _end_of(record: CheckpointRecord) -> float | None:
    deleted, expires = record.settings.deleted_at, record.settings.expires_at
    return expires if deleted is None else deleted
