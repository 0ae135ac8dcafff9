"""Checkpoints as users see them: owned or public, not expired, in an index that can be rebuilt.

The object store has the truth (manifest and settings); the store's index answers lists. Where
the store is new to an object store, what is there is put into the index at start, together with
the training runs that only checkpoints remember.

One that is deleted, or expires, is gone for everybody who comes from now on. Its files go, and
its name is free, when nobody uses it any more: see `Uses`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tuft.api.uses import Uses
from tuft.checkpoints import CheckpointPath, Checkpoints, parse_path
from tuft.contracts.records import CheckpointKind, CheckpointRecord, CheckpointSettings
from tuft.errors import DamagedCheckpoint, InvalidRequest, NotFound, TuftError, Unavailable
from tuft.store import Store
from tuft.store.checkpoints import Place, place_of

_log = logging.getLogger(__name__)
_WAIT_FOR_SCAN_S = 10.0
_RETRY_SCAN_S = 1.0
_SCANS_AT_ONCE = 8
_ENDS_AT_ONCE = 100
_USED_LOOK_AGAIN_S = 60.0
# Longer than a removal lasts. Who dies in one leaves it to others after this.
_REMOVAL_S = 600.0


class Catalog:
    """Look-ups, lists and changes of checkpoints, with the owner checked."""

    def __init__(self, store: Store, checkpoints: Checkpoints, where: str = "") -> None:
        """`where`: which object store this is; the index of another one is no index of this."""
        self._store = store
        self._where = where
        self._checkpoints = checkpoints
        self._uses = Uses(store)
        self._scanned = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        """See in the background that the index is complete; what asks for all of it waits.

        Where the store has seen this object store before, it is: a checkpoint is indexed together
        with the operation that made it. Else all manifests are read, once.
        """
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

    def use(self, tenant: str, path: str, user: str) -> CheckpointRecord:
        """`find`, for somebody who is going to read the files: they stay for as long as it lives.

        `user` is the name that a function of `tuft.api.uses` gives.
        """
        self._uses.enter(place_of(self.find(tenant, path)), user)
        return self.find(tenant, path)

    def check_free(
        self, run_id: str, kind: CheckpointKind, name: str, *, overwrite: bool = False
    ) -> None:
        """Whether a checkpoint can be written under this name.

        Raises:
            InvalidRequest: one is there (and `overwrite` is not set), or was deleted and is
                still in use.
        """
        place = CheckpointPath(run_id, kind, name)
        record = self._look_up(place)
        if record is None:
            return
        if record.settings.is_over(time.time()):
            user = self.delete(record)
            if user is not None:
                raise InvalidRequest(
                    f"checkpoint {str(place)!r} was deleted, or has expired, and is still used by "
                    f"{user}; choose another name, or try again when that has ended"
                )
        elif not overwrite:
            hint = ", or pass overwrite=true" if kind == "weights" else ""
            raise InvalidRequest(f"checkpoint {place} exists already; choose another name{hint}")

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

    def delete(self, record: CheckpointRecord) -> str | None:
        """Let nobody else use it, and remove it where nobody does; who does, in words.

        The files go before the entry: a crash between leaves an entry, never a file.
        """
        place = place_of(record)
        if record.settings.deleted_at is None:
            try:
                self.change(record, lambda now: now.model_copy(update={"deleted_at": time.time()}))
            except (NotFound, DamagedCheckpoint) as error:
                # Nobody can read it anyhow.
                _log.warning("%s is removed at once: %s", record.manifest.path, error.message)
                return self._remove(place)
        try:
            return self._uses.of(place) or self._remove(place)
        except Unavailable as error:
            # It is deleted; only its files are left, which `sweep` comes back for.
            _log.warning("the files of %s stay for now: %s", record.manifest.path, error.message)
            return "its removal, which is under way"

    def sweep(self, now: float) -> int:
        """Remove those that have come to their end at `now`; how many there were, or more.

        Raises:
            Unavailable: store or object store are away; what is left stays entered.
        """
        due = self._store.checkpoints.ending(now, _ENDS_AT_ONCE)
        for place in due:
            user = self._end(place, now)
            if user is not None:
                self._store.checkpoints.end_later(place, now + _USED_LOOK_AGAIN_S)
                _log.info("the files of tinker://%s/%s/%s stay for now: %s", *place, user)
        return len(due)

    def _end(self, place: Place, now: float) -> str | None:
        try:
            record = self._checkpoints.record(self._checkpoints.prefix_of(*place))
        except NotFound:
            # A removal that was cut short.
            return self._remove(place)
        except DamagedCheckpoint as error:
            _log.warning("it stays, though it has come to its end: %s", error.message)
            self._store.checkpoints.forget_end(place)
            return None
        if record.settings.is_over(now):
            return self.delete(record)
        # Written again, or given more time, and the index does not know.
        self._store.checkpoints.put(record)
        return None

    def _remove(self, place: Place) -> str | None:
        if not self._store.checkpoints.claim_removal(place, _REMOVAL_S):
            return "its removal, which is under way"
        try:
            self._checkpoints.delete(*place)
        except TuftError:
            self._store.checkpoints.give_up_removal(place)
            raise
        self._store.checkpoints.remove(*place)
        return None

    def _get(self, place: CheckpointPath) -> CheckpointRecord | None:
        record = self._look_up(place)
        return record if record is not None and self._is_alive(record) else None

    def _look_up(self, place: CheckpointPath) -> CheckpointRecord | None:
        """Also one that is over."""
        try:
            return self._store.checkpoints.get(place.run_id, place.kind, place.name)
        except NotFound:
            if self._scanned.is_set():
                return None
        # The scan may not have come to it yet.
        try:
            return self._checkpoints.record(place.prefix)
        except NotFound:
            return None

    def _is_alive(self, record: CheckpointRecord) -> bool:
        if not record.settings.is_over(time.time()):
            return True
        if record.settings.deleted_at is None:
            # Expired just now. The index must not list it any more.
            self.delete(record)
        return False

    def see(self, place: Place) -> None:
        """Put a checkpoint that is in the object store into the index, where that lacks it."""
        try:
            self._store.checkpoints.get(*place)
        except NotFound:
            record = self._checkpoints.listed(self._checkpoints.prefix_of(*place))
            if record is not None:
                self._store.runs.restore(record.manifest.run.model_copy(update={"live": False}))
                self._add(record)

    def _rebuild(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            try:
                if self._store.checkpoints.scanned() == self._where:
                    self._scanned.set()
                    return
                count = self._scan()
                self._store.checkpoints.set_scanned(self._where)
            except TuftError as error:
                _log.warning("rebuilding the index of checkpoints, will try again: %s", error)
                self._stopping.wait(_RETRY_SCAN_S)
            else:
                took = time.monotonic() - began
                _log.info("the index of checkpoints is complete: %d in %.1f s", count, took)
                self._scanned.set()
                return

    def _scan(self) -> int:
        found = self._checkpoints.paths()
        places = (Place(path.run_id, path.kind, path.name) for path in found)
        with ThreadPoolExecutor(_SCANS_AT_ONCE, thread_name_prefix="checkpoint-scan") as pool:
            try:
                return sum(1 for _ in pool.map(self.see, places))
            except TuftError:
                # What is not begun would fail, too, and take its time.
                pool.shutdown(cancel_futures=True)
                raise

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
