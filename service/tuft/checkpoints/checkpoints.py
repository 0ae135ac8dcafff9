"""Writing, reading and removing checkpoints.

A checkpoint exists if and only if its `manifest.json` does. The manifest is written last and
removed first, and a put is atomic, so a crash between leaves either the checkpoint or
leftovers that no reader looks at; the next write or delete removes them.

Nothing that exists is written over: where a folder is not empty (an overwrite, leftovers),
and where the writer could be replaced and not know it yet (it has a fence), the files go to a
subfolder of their own, which the manifest names. The old checkpoint is whole until the new
one is.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from tuft.checkpoints.paths import KINDS, CheckpointPath, check_name, prefix_of
from tuft.config import describe
from tuft.contracts.records import (
    CheckpointFile,
    CheckpointKind,
    CheckpointManifest,
    CheckpointRecord,
    CheckpointSettings,
)
from tuft.errors import DamagedCheckpoint, InvalidRequest, LeaseLost, NotFound, TuftError
from tuft.objects import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SETTINGS = "settings.json"
# A reader starts again when the checkpoint was overwritten under it.
_READ_ATTEMPTS = 5
# A writer writes again what another writer's tidying removed.
_WRITE_ATTEMPTS = 3
# A writer that was stopped may go on within this.
_STOPPED_S = 3600.0


class Checkpoints:
    """All checkpoints of an object store. A `prefix` is the object folder of one."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    @staticmethod
    def prefix_of(run_id: str, kind: CheckpointKind, name: str) -> str:
        """The object folder of `tinker://run_id/kind/name`."""
        return prefix_of(run_id, kind, name)

    def write(
        self,
        manifest: CheckpointManifest,
        files: Mapping[str, bytes],
        *,
        prefix: str | None = None,
        overwrite: bool = False,
        settings: CheckpointSettings | None = None,
        fence: Callable[[], None] | None = None,
    ) -> CheckpointRecord:
        """Write files, then the manifest (its `files` and `folder` are filled in here).

        Without `prefix`, the place follows from run, kind and name. An existing checkpoint
        with the same `request_id` is the work of the same operation before a crash: where it
        is whole, it is returned as it is. `fence` is called right before the manifest is put,
        and before anything of others is removed: it raises LeaseLost where this writer has
        been replaced, so that one which was stopped and wakes up changes nothing.

        Raises:
            LeaseLost: by `fence`; nothing was written.
            InvalidRequest: the name is malformed, or it exists and `overwrite` is not set.
            StorageFull, Unavailable: nothing was written; an overwritten one is still whole.
        """
        if prefix is None:
            check_name(manifest.name)
            prefix = prefix_of(manifest.run.run_id, manifest.kind, manifest.name)
        _check_file_names(files)
        existing = self._existing(prefix, overwrite)
        if existing is not None:
            replay = manifest.request_id is not None and existing.request_id == manifest.request_id
            if replay and self._is_whole(prefix, existing):
                return self._record(prefix, existing)
            if not replay:
                self._check_free(prefix, existing, overwrite)
        apart = fence is not None or next(iter(self._objects.list(prefix)), None) is not None
        manifest = manifest.model_copy(
            update={
                "folder": f"write-{uuid.uuid4().hex[:12]}" if apart else "",
                "files": {name: _describe(data) for name, data in sorted(files.items())},
            }
        )
        record = CheckpointRecord(manifest=manifest, settings=settings or CheckpointSettings())
        there = self._put(prefix, record, files, fence or _unfenced)
        self._tidy(prefix, record, there, existing, patient=fence is not None)
        return record

    def manifest(self, prefix: str) -> CheckpointManifest:
        """Raises NotFound, or DamagedCheckpoint where manifest.json can't be understood."""
        try:
            data = self._objects.get(f"{prefix}/{MANIFEST}")
        except NotFound as error:
            raise NotFound(f"there is no checkpoint at {prefix!r}") from error
        try:
            manifest = CheckpointManifest.model_validate_json(data)
            _check_file_names((*manifest.files, manifest.folder))
        except ValueError as error:
            why = describe(error) if isinstance(error, ValidationError) else str(error)
            raise DamagedCheckpoint(
                f"{prefix}/{MANIFEST} is damaged, or not a manifest of this version: {why}"
            ) from error
        return manifest

    def record(self, prefix: str) -> CheckpointRecord:
        """Manifest and settings. Raises as `manifest`."""
        return self._record(prefix, self.manifest(prefix))

    def read(
        self, prefix: str, names: Iterable[str] | None = None
    ) -> tuple[CheckpointManifest, dict[str, bytes]]:
        """The manifest and its files (all, or those named), sizes and sha256 verified.

        Raises:
            NotFound: no such checkpoint, or it has no file of that name.
            DamagedCheckpoint: names the file and what differs.
        """
        wanted = None if names is None else list(names)
        manifest = self.manifest(prefix)
        for _ in range(_READ_ATTEMPTS):
            try:
                return manifest, self._verified(prefix, manifest, wanted)
            except DamagedCheckpoint:
                current = self.manifest(prefix)
                if current == manifest:
                    raise
                manifest = current
        return manifest, self._verified(prefix, manifest, wanted)

    def read_files(self, prefix: str, names: Iterable[str] | None = None) -> dict[str, bytes]:
        """The files alone; see `read`."""
        return self.read(prefix, names)[1]

    def fetch(self, prefix: str, manifest: CheckpointManifest, name: str, path: Path) -> None:
        """Write one of its files to `path`, not verified and not held in memory. Raises NotFound."""
        self._objects.get_file(_place(prefix, manifest, name), path)

    def settings(self, prefix: str) -> CheckpointSettings:
        """What may change after the write. Raises as `manifest`."""
        return self.record(prefix).settings

    def set_settings(self, prefix: str, settings: CheckpointSettings) -> CheckpointRecord:
        """Replace the settings of an existing checkpoint. Raises as `manifest`."""
        manifest = self.manifest(prefix)
        self._objects.put(_place(prefix, manifest, SETTINGS), _json(settings))
        return CheckpointRecord(manifest=manifest, settings=settings)

    def delete(self, run_id: str, kind: CheckpointKind, name: str) -> None:
        """Remove a checkpoint and leftovers; nothing happens where there is none."""
        self.remove(prefix_of(run_id, kind, check_name(name)))

    def remove(self, prefix: str) -> None:
        """Remove the checkpoint at a prefix, the manifest first."""
        self._objects.delete(f"{prefix}/{MANIFEST}")
        self._objects.delete_prefix(prefix)

    def objects_of(self, prefix: str) -> set[str]:
        """The keys of all that belongs to the checkpoint. Raises as `manifest`."""
        return _keys(prefix, self.manifest(prefix))

    def paths(self) -> Iterator[CheckpointPath]:
        """Where there are checkpoints that users own, in no particular order."""
        for info in self._objects.list("runs"):
            parts = info.key.split("/")
            if len(parts) != 5 or parts[4] != MANIFEST:
                continue
            for kind in KINDS:
                if kind == parts[2]:
                    yield CheckpointPath(parts[1], kind, parts[3])

    def listed(self, prefix: str) -> CheckpointRecord | None:
        """The record of one that is to be listed; None, and logged, where it is damaged, and
        where it is gone."""
        try:
            record = self.record(prefix)
        except NotFound:
            return None  # deleted since it was listed
        except DamagedCheckpoint as error:
            # One damaged checkpoint must not keep a service from starting.
            log.warning("left out of the index: %s", error.message)
            return None
        manifest = record.manifest
        if prefix != prefix_of(manifest.run.run_id, manifest.kind, manifest.name):
            log.warning("left out of the index: %s names %s", prefix, manifest.path)
            return None
        return record

    def _existing(self, prefix: str, overwrite: bool) -> CheckpointManifest | None:
        try:
            return self.manifest(prefix)
        except NotFound:
            return None
        except DamagedCheckpoint:
            if overwrite:
                return None
            raise

    def _check_free(self, prefix: str, existing: CheckpointManifest, overwrite: bool) -> None:
        if not overwrite:
            raise InvalidRequest(
                f"checkpoint {existing.path} exists already; choose another name, "
                "or pass overwrite=true"
            )
        if self._record(prefix, existing).settings.deleted_at is not None:
            raise InvalidRequest(
                f"checkpoint {existing.path} was deleted and is still in use; choose another name"
            )

    def _is_whole(self, prefix: str, manifest: CheckpointManifest) -> bool:
        try:
            self._verified(prefix, manifest, None)
        except DamagedCheckpoint:
            return False
        return True

    def _put(
        self,
        prefix: str,
        record: CheckpointRecord,
        files: Mapping[str, bytes],
        fence: Callable[[], None],
    ) -> list[ObjectInfo]:
        """Returns what is at the prefix then; nothing, where that is another's by now."""
        manifest = record.manifest
        objects = {_place(prefix, manifest, name): data for name, data in files.items()}
        if record.settings != CheckpointSettings():
            objects[_place(prefix, manifest, SETTINGS)] = _json(record.settings)
        try:
            for key, data in objects.items():
                self._objects.put(key, data)
            fence()
        except TuftError:
            self._give_up(objects)
            raise
        # A failure from here on may have written the manifest all the same: nothing is undone.
        self._objects.put(f"{prefix}/{MANIFEST}", _json(manifest))
        for _ in range(_WRITE_ATTEMPTS):
            there = list(self._objects.list(prefix))
            missing = objects.keys() - {info.key for info in there}
            if not missing or not self._is_ours(prefix, manifest):
                fence()
                return [] if missing else there
            for key in missing:
                self._objects.put(key, objects[key])
        raise LeaseLost(f"another writer keeps removing what this one writes to {prefix}")

    def _is_ours(self, prefix: str, manifest: CheckpointManifest) -> bool:
        """Whether what was put is still what is there: not written over, and not deleted."""
        try:
            return self.manifest(prefix) == manifest
        except NotFound:
            return False

    def _give_up(self, keys: Iterable[str]) -> None:
        # The write fails already; what can't be removed now, the next write or delete removes.
        with contextlib.suppress(TuftError):
            for key in keys:
                self._objects.delete(key)

    def _tidy(
        self,
        prefix: str,
        record: CheckpointRecord,
        there: Iterable[ObjectInfo],
        replaced: CheckpointManifest | None,
        *,
        patient: bool,
    ) -> None:
        """Remove what a checkpoint that was written replaces, and leftovers.

        `patient`: another writer may have been stopped right before it put its manifest, and
        put it when it wakes up. It must find its files then, so that the checkpoint is whole.
        """
        ours = _keys(prefix, record.manifest)
        known = set() if replaced is None else _keys(prefix, replaced)
        newest = time.time() - _STOPPED_S if patient else math.inf
        try:
            for info in there:
                if info.key not in ours and (info.key in known or info.changed_at < newest):
                    self._objects.delete(info.key)
        except TuftError as error:
            # The checkpoint is written and whole; the next write or delete tries again.
            log.warning("leftovers of a checkpoint stay for now: %s", error.message)

    def _record(self, prefix: str, manifest: CheckpointManifest) -> CheckpointRecord:
        place = _place(prefix, manifest, SETTINGS)
        try:
            settings = CheckpointSettings.model_validate_json(self._objects.get(place))
        except NotFound:
            settings = CheckpointSettings()
        except ValidationError as error:
            raise DamagedCheckpoint(f"{place} is damaged: {describe(error)}") from error
        return CheckpointRecord(manifest=manifest, settings=settings)

    def _verified(
        self, prefix: str, manifest: CheckpointManifest, names: list[str] | None
    ) -> dict[str, bytes]:
        result = {}
        for name in manifest.files if names is None else names:
            expected = manifest.files.get(name)
            if expected is None:
                raise NotFound(
                    f"checkpoint {manifest.path} has no file {name!r}; "
                    f"it has {', '.join(manifest.files)}"
                )
            place = _place(prefix, manifest, name)
            try:
                data = self._objects.get(place)
            except NotFound as error:
                raise DamagedCheckpoint(
                    f"checkpoint {manifest.path} is damaged: {place} is missing"
                ) from error
            _verify(manifest.path, place, data, expected)
            result[name] = data
        return result


def _unfenced() -> None:
    """For writers that nobody can replace."""


def _place(prefix: str, manifest: CheckpointManifest, name: str) -> str:
    return f"{prefix}/{manifest.folder}/{name}" if manifest.folder else f"{prefix}/{name}"


def _keys(prefix: str, manifest: CheckpointManifest) -> set[str]:
    places = (_place(prefix, manifest, name) for name in (*manifest.files, SETTINGS))
    return {f"{prefix}/{MANIFEST}", *places}


def _describe(data: bytes) -> CheckpointFile:
    return CheckpointFile(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _verify(path: str, place: str, data: bytes, expected: CheckpointFile) -> None:
    found = _describe(data)
    if found.size != expected.size:
        raise DamagedCheckpoint(
            f"checkpoint {path} is damaged: {place} has {found.size} bytes, "
            f"its manifest says {expected.size}"
        )
    if found.sha256 != expected.sha256:
        raise DamagedCheckpoint(
            f"checkpoint {path} is damaged: {place} has sha256 {found.sha256}, "
            f"its manifest says {expected.sha256}"
        )


def _json(record: CheckpointManifest | CheckpointSettings) -> bytes:
    # What is not set is left out, so that an older version can read it where it can.
    return (record.model_dump_json(indent=1, exclude_none=True) + "\n").encode()


def _check_file_names(files: Iterable[str]) -> None:
    for name in files:
        if "/" in name or name in (MANIFEST, SETTINGS):
            raise ValueError(f"{name!r} can't be a file or folder of a checkpoint")
