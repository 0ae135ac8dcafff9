"""Checkpoints as users see them: owned or public, not expired, in an index that can be rebuilt.

The object store has the truth (manifest and settings); the store's index answers lists. At
start every process puts what the index lacks back into it, together with the training runs
that only checkpoints remember.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tuft.checkpoints import CheckpointPath, Checkpoints, parse_path
from tuft.contracts.records import CheckpointKind, CheckpointRecord, CheckpointSettings
from tuft.errors import NotFound, TuftError, Unavailable
from tuft.store import Store

_log = logging.getLogger(__name__)
_WAIT_FOR_SCAN_S = 10.0
_RETRY_SCAN_S = 1.0


class Catalog:
    """Look-ups, lists and changes of checkpoints, with the owner checked."""

    def __init__(self, store: Store, checkpoints: Checkpoints) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._scanned = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """Rebuild the index in the background; what asks for all of it waits."""
        threading.Thread(target=self._rebuild, name="checkpoint-scan", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def wait_until_complete(self) -> None:
        """Return once the index is complete. Raises Unavailable after some seconds."""
        if not self._scanned.wait(_WAIT_FOR_SCAN_S):
            raise Unavailable("the index of checkpoints is still being rebuilt; try again")

    def find(self, tenant: str, path: str) -> CheckpointRecord:
        """A checkpoint that the tenant may read: its own, or a public one.

        Raises:
            InvalidRequest: not a tinker:// path.
            NotFound: no such checkpoint, expired, or another tenant's.
        """
        place = parse_path(path)
        record = self._get(place)
        if record is None or not _may_read(record, tenant):
            raise NotFound(f"there is no checkpoint {path!r}")
        return record

    def owned(self, tenant: str, run_id: str, kind: CheckpointKind, name: str) -> CheckpointRecord:
        """A checkpoint of the tenant itself. Raises NotFound."""
        place = CheckpointPath(run_id, kind, name)
        record = self._get(place)
        if record is None or record.manifest.run.tenant != tenant:
            raise NotFound(f"there is no checkpoint {str(place)!r}")
        return record

    def exists(self, run_id: str, kind: CheckpointKind, name: str) -> bool:
        return self._get(CheckpointPath(run_id, kind, name)) is not None

    def of_run(self, run_id: str) -> list[CheckpointRecord]:
        """All checkpoints of a run, newest first. Raises Unavailable while rebuilding."""
        self.wait_until_complete()
        records = [r for r in self._store.checkpoints.list_run(run_id) if self._is_alive(r)]
        return sorted(records, key=lambda record: record.manifest.created_at, reverse=True)

    def of_tenant(self, tenant: str, limit: int, offset: int) -> tuple[list[CheckpointRecord], int]:
        """A page, newest first, and how many there are in all. Raises Unavailable."""
        self.wait_until_complete()
        while True:
            records, total = self._store.checkpoints.list_tenant(tenant, limit, offset)
            alive = [record for record in records if self._is_alive(record)]
            # Expired ones were removed just now: the page is read again without them.
            if len(alive) == len(records):
                return records, total

    def change(
        self,
        record: CheckpointRecord,
        change: Callable[[CheckpointSettings], CheckpointSettings],
    ) -> None:
        """Replace the settings, in the object store first."""
        manifest = record.manifest
        prefix = self._checkpoints.prefix_of(manifest.run.run_id, manifest.kind, manifest.name)
        current = self._checkpoints.settings(prefix)
        changed = self._checkpoints.set_settings(prefix, change(current))
        self._store.checkpoints.put(changed)

    def delete(self, record: CheckpointRecord) -> None:
        """Remove the files, then the entry: a crash between leaves an entry, never a file."""
        manifest = record.manifest
        where = (manifest.run.run_id, manifest.kind, manifest.name)
        self._checkpoints.delete(*where)
        self._store.checkpoints.remove(*where)

    def _get(self, place: CheckpointPath) -> CheckpointRecord | None:
        try:
            record = self._store.checkpoints.get(place.run_id, place.kind, place.name)
        except NotFound:
            if self._scanned.is_set():
                return None
            # The scan may not have come to it yet.
            try:
                record = self._checkpoints.record(place.prefix)
            except NotFound:
                return None
        return record if self._is_alive(record) else None

    def _is_alive(self, record: CheckpointRecord) -> bool:
        expires_at = record.settings.expires_at
        if expires_at is None or expires_at > time.time():
            return True
        self.delete(record)
        return False

    def _rebuild(self) -> None:
        while not self._stopping.is_set():
            try:
                count = self._scan()
            except TuftError as error:
                _log.warning("rebuilding the index of checkpoints, will try again: %s", error)
                self._stopping.wait(_RETRY_SCAN_S)
            else:
                _log.info("the index of checkpoints is complete, %d were added", count)
                self._scanned.set()
                return

    def _scan(self) -> int:
        added = 0
        for record in self._checkpoints.scan():
            manifest = record.manifest
            run = manifest.run
            self._store.runs.restore(run.model_copy(update={"live": False}))
            try:
                self._store.checkpoints.get(run.run_id, manifest.kind, manifest.name)
            except NotFound:
                self._add(record)
                added += 1
        return added

    def _add(self, record: CheckpointRecord) -> None:
        manifest = record.manifest
        where = (manifest.run.run_id, manifest.kind, manifest.name)
        self._store.checkpoints.put(record)
        # It may have been deleted between the listing and the put.
        try:
            self._checkpoints.manifest(self._checkpoints.prefix_of(*where))
        except NotFound:
            self._store.checkpoints.remove(*where)


def _may_read(record: CheckpointRecord, tenant: str) -> bool:
    return record.settings.public or record.manifest.run.tenant == tenant
