"""Snapshots: recovery points of training runs in the object store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from tuft.checkpoints import Checkpoints
from tuft.contracts.operations import request_id_of
from tuft.contracts.records import CheckpointManifest, RunRecord, SnapshotRecord
from tuft.errors import DamagedCheckpoint, NotFound
from tuft.objects import ObjectStore


class Snapshots:
    """Adapter and optimizer of a run as they were after one of its operations.

    They are kept as checkpoints are (files first, manifest with digests last), under
    `runs/{run}/snapshots/{seq_id}`, and only taken while no gradient is accumulated.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._checkpoints = Checkpoints(objects)

    def write(
        self, run: RunRecord, seq_id: int, step: int, files: Mapping[str, bytes]
    ) -> SnapshotRecord:
        """Raises: StorageFull, Unavailable."""
        prefix = f"runs/{run.run_id}/snapshots/{seq_id}"
        manifest = CheckpointManifest(
            run=run,
            kind="weights",
            name=str(seq_id),
            step=step,
            has_optimizer=True,
            created_at=time.time(),
            request_id=request_id_of(run.run_id, seq_id),
            files={},
        )
        self._checkpoints.write(manifest, files, prefix=prefix, overwrite=True)
        return SnapshotRecord(seq_id=seq_id, prefix=prefix, step=step)

    def read(self, snapshot: SnapshotRecord) -> dict[str, bytes]:
        """Raises: NotFound, DamagedCheckpoint, Unavailable."""
        return self._checkpoints.read_files(snapshot.prefix)

    def older(self, snapshot: SnapshotRecord) -> list[SnapshotRecord]:
        """Whole snapshots of the same run before this one, newest first."""
        folder = _folder_of(snapshot)
        found = []
        for seq_id in sorted(self._seq_ids(folder), reverse=True):
            prefix = f"{folder}/{seq_id}"
            with contextlib.suppress(NotFound, DamagedCheckpoint):
                if seq_id < snapshot.seq_id:
                    step = self._checkpoints.manifest(prefix).step
                    found.append(SnapshotRecord(seq_id=seq_id, prefix=prefix, step=step))
        return found

    def remove_before(self, snapshot: SnapshotRecord) -> None:
        """Remove the snapshots of the same run that are older than this one."""
        folder = _folder_of(snapshot)
        for seq_id in self._seq_ids(folder):
            if seq_id < snapshot.seq_id:
                self._checkpoints.remove(f"{folder}/{seq_id}")

    def _seq_ids(self, folder: str) -> set[int]:
        keys = (info.key.removeprefix(f"{folder}/") for info in self._objects.list(folder))
        return {int(key.partition("/")[0]) for key in keys}


def _folder_of(snapshot: SnapshotRecord) -> str:
    return snapshot.prefix.rpartition("/")[0]
