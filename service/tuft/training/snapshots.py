"""Snapshots of training runs: what a recovery starts from, and where it is kept."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tuft.checkpoints import Checkpoints
from tuft.config import ServiceConfig
from tuft.contracts.operations import request_id_of
from tuft.contracts.records import CheckpointManifest, RunRecord, SnapshotRecord
from tuft.errors import DamagedCheckpoint, NotFound, StorageFull
from tuft.objects import LocalObjects, ObjectStore

log = logging.getLogger(__name__)

_FOLDER = "snapshots"
_SHARE_OF_DISK = 0.8


class Snapshots:
    """All that a run has on the ranks, as it was after one of its operations.

    They are kept as checkpoints are (files first, manifest with digests last), under
    `runs/{run}/snapshots/{seq_id}`: in a folder of this machine where the journal is on this
    machine, too, else in the object store, from where another machine can take over.
    """

    def __init__(self, config: ServiceConfig, objects: ObjectStore) -> None:
        self._objects = objects
        self._folder: LocalObjects | None = None
        self._path = Path()
        if config.state_folder is not None:
            self._path = config.state_folder / _FOLDER
            self._folder = LocalObjects(self._path)
        wanted = config.trainer.snapshots
        if wanted == "auto":
            wanted = "object_store" if config.persistence.mode == "redis_url" else "local"
        self._local = wanted == "local" and self._folder is not None
        limit = config.trainer.snapshot_gb
        self._limit = None if limit is None else limit * 1e9
        self._used: float | None = None
        """Bytes in the local folder; counted when first needed."""
        self._told = False

    def write(
        self, run: RunRecord, wanted: SnapshotRecord, files: Mapping[str, bytes]
    ) -> SnapshotRecord:
        """Write a snapshot; `wanted` says all but where it will be.

        What has no room in the local folder goes to the object store.

        Raises:
            StorageFull: there is none there, either.
            Unavailable: the object store is away.
        """
        size = sum(map(len, files.values()))
        if self._local and self._used_bytes() + size <= self._room():
            try:
                record = self._put(run, wanted.model_copy(update={"local": True}), files)
            except StorageFull as error:
                log.warning("%s goes to the object store: %s", wanted.prefix, error.message)
            else:
                self._used = self._used_bytes() + size
                return record
        elif self._local and not self._told:
            log.warning("the room for local snapshots is used up, others go to the object store")
            self._told = True
        return self._put(run, wanted.model_copy(update={"local": False}), files)

    def _put(
        self, run: RunRecord, record: SnapshotRecord, files: Mapping[str, bytes]
    ) -> SnapshotRecord:
        manifest = CheckpointManifest(
            run=run,
            kind="weights",
            name=str(record.seq_id),
            step=record.step,
            has_optimizer=True,
            created_at=time.time(),
            request_id=request_id_of(run.run_id, record.seq_id),
            files={},
        )
        self._checkpoints(record).write(manifest, files, prefix=record.prefix, overwrite=True)
        return record

    def read(self, snapshot: SnapshotRecord) -> dict[str, bytes]:
        """Raises: NotFound, DamagedCheckpoint, Unavailable."""
        return self._checkpoints(snapshot).read_files(snapshot.prefix)

    def remove_before(self, snapshot: SnapshotRecord) -> None:
        """Remove the snapshots of the same run that are older than this one, wherever they are."""
        folder = snapshot.prefix.rpartition("/")[0]
        places: list[ObjectStore] = [self._objects]
        if self._folder is not None:
            places.append(self._folder)
        for objects in places:
            sizes: dict[int, int] = {}
            for info in objects.list(folder):
                seq_id = int(info.key.removeprefix(f"{folder}/").partition("/")[0])
                sizes[seq_id] = sizes.get(seq_id, 0) + info.size
            for seq_id, size in sizes.items():
                if seq_id < snapshot.seq_id:
                    Checkpoints(objects).remove(f"{folder}/{seq_id}")
                    if objects is self._folder and self._used is not None:
                        self._used -= size

    @property
    def is_tight(self) -> bool:
        """Whether the local folder is so full that a run should keep one snapshot, not two."""
        return self._local and self._used_bytes() > 0.5 * self._room()

    def remove_of_others(self, is_known: Callable[[str], bool]) -> None:
        """Remove local snapshots of runs that are not known (any more). Raises as `is_known`."""
        if self._folder is None:
            return
        runs = {info.key.split("/")[1] for info in self._folder.list("runs")}
        for run_id in sorted(runs):
            if not is_known(run_id):
                log.info("removing the snapshots of %s, which is gone", run_id)
                with contextlib.suppress(NotFound, DamagedCheckpoint):
                    self._folder.delete_prefix(f"runs/{run_id}")
        self._used = None

    def _checkpoints(self, snapshot: SnapshotRecord) -> Checkpoints:
        if not snapshot.local:
            return Checkpoints(self._objects)
        if self._folder is None:
            raise NotFound(
                f"the snapshot {snapshot.prefix} is in the state folder of the trainer's machine, "
                "and this trainer has none"
            )
        return Checkpoints(self._folder)

    def _used_bytes(self) -> float:
        if self._used is None:
            assert self._folder is not None
            self._used = float(sum(info.size for info in self._folder.list("")))
        return self._used

    def _room(self) -> float:
        """Bytes that snapshots may take in the local folder."""
        if self._limit is not None:
            return self._limit
        # The store's own file and hand-overs are there, too.
        return _SHARE_OF_DISK * (shutil.disk_usage(self._path).free + self._used_bytes())


def wanted_snapshot(
    run_id: str, seq_id: int, *, step: int, accumulated: bool, poison: str | None
) -> SnapshotRecord:
    """What a snapshot of this moment is to be called."""
    return SnapshotRecord(
        seq_id=seq_id,
        prefix=f"runs/{run_id}/snapshots/{seq_id}",
        step=step,
        accumulated=accumulated,
        poison=poison,
    )
