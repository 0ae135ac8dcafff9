"""Index of checkpoints: what is in the object store, for lists without scanning it."""

from __future__ import annotations

from tuft.contracts.records import CheckpointKind, CheckpointRecord
from tuft.errors import NotFound
from tuft.store import keys
from tuft.store.connection import Connection, blob, integer, texts
from tuft.store.values import Effect


class CheckpointIndex:
    """Checkpoint records. The manifests in the object store are the truth, this follows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def effects(self, record: CheckpointRecord) -> list[Effect]:
        """What indexes a checkpoint together with the completion of the operation that made it."""
        manifest = record.manifest
        name = _name(manifest.run.run_id, manifest.kind, manifest.name)
        score = repr(manifest.created_at)
        return [
            ["SET", keys.checkpoint(name), record.model_dump_json()],
            ["ZADD", keys.run_checkpoints(manifest.run.run_id), score, name],
            ["ZADD", keys.tenant_checkpoints(manifest.run.tenant), score, name],
        ]

    def put(self, record: CheckpointRecord) -> None:
        """Index a checkpoint, in place of what was under its name."""
        self._connection.write(*self.effects(record))

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
        if found is None:
            return
        tenant = CheckpointRecord.model_validate_json(blob(found)).manifest.run.tenant
        self._connection.write(
            ["DEL", keys.checkpoint(full)],
            ["ZREM", keys.run_checkpoints(run_id), full],
            ["ZREM", keys.tenant_checkpoints(tenant), full],
        )

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


def _name(run_id: str, kind: CheckpointKind, name: str) -> str:
    return f"{run_id}/{kind}/{name}"
