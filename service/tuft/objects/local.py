"""Objects as files of a folder, durable and atomic.

A put writes a temporary file in `.tmp` of the same folder tree, syncs it, renames it to its
place and syncs the folders above, so that a crash at any moment leaves the old object or
the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tuft.durable import make_folder, sync_folder
from tuft.errors import ConfigError, InvalidRequest, NotFound, StorageFull, TuftError, Unavailable
from tuft.objects.base import ObjectInfo
from tuft.objects.keys import check_key, check_prefix

_TMP = ".tmp"
# A temporary file that nobody wrote to for this long belongs to a process that died.
_ABANDONED_S = 3600.0
# A put can lose its new folder to a delete that tidies up an empty one; it makes it again.
_FOLDER_ATTEMPTS = 100


class LocalObjects:
    """An ObjectStore in a folder, which is made where it is missing.

    Raises:
        ConfigError: the folder can't be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self._root = Path(os.path.abspath(folder))
        self._tmp = self._root / _TMP
        try:
            make_folder(self._tmp)
            sync_folder(self._root)
            sync_folder(self._root.parent)
        except OSError as error:
            raise ConfigError(
                f"the object store's folder {self._root} can't be used: {error.strerror}"
            ) from error
        if not os.access(self._tmp, os.W_OK | os.X_OK):
            raise ConfigError(f"the object store's folder {self._root} is not writable")
        self.sweep(time.time() - _ABANDONED_S)

    def check(self) -> None:
        probe = self._tmp / uuid.uuid4().hex
        try:
            # Nothing is made here: an empty mount point must not pass for the store.
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _translated(error, f"use the folder {self._root}") from error

    def put(self, key: str, data: bytes) -> None:
        self._write(key, lambda out: out.write(data))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(key, lambda out: shutil.copyfileobj(source, out, 1024 * 1024))

    def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            self._see_that_it_is_there()
            raise NotFound(f"there is no object {key!r}") from error
        except OSError as error:
            raise _translated(error, f"read {path}") from error

    def get_file(self, key: str, path: Path) -> None:
        source = self._path(key)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            shutil.copyfile(source, part)
            part.replace(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            self._see_that_it_is_there()
            if path.parent.is_dir():
                raise NotFound(f"there is no object {key!r}") from error
            raise _translated(error, f"write {path}") from error
        except OSError as error:
            raise _translated(error, f"copy {source} to {path}") from error
        finally:
            part.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        try:
            found = path.is_file()
        except OSError as error:
            raise _translated(error, f"look up {path}") from error
        if not found:
            self._see_that_it_is_there()
        return found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = check_prefix(prefix) + "/" if prefix else ""
        return self._walk(folder)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return
        except PermissionError as error:
            # macOS answers EPERM, not EISDIR, for a folder.
            if path.is_dir():
                return
            raise _translated(error, f"delete {path}") from error
        except OSError as error:
            raise _translated(error, f"delete {path}") from error
        self._sync_after_delete(path.parent)

    def delete_prefix(self, prefix: str) -> None:
        for info in self._walk(check_prefix(prefix) + "/"):
            self.delete(info.key)

    def sweep(self, before: float) -> int:
        removed = 0
        try:
            with os.scandir(self._tmp) as entries:
                for entry in entries:
                    # Another process may sweep too, or finish its write.
                    with contextlib.suppress(FileNotFoundError):
                        if entry.stat().st_mtime < before:
                            os.unlink(entry.path)
                            removed += 1
        except OSError as error:
            raise _translated(error, f"tidy {self._tmp}") from error
        return removed

    def _see_that_it_is_there(self) -> None:
        """Nothing found means nothing where the folder itself is gone: unmounted, say."""
        if not self._tmp.is_dir():
            raise Unavailable(f"the object store's folder {self._root} is gone")

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        temporary = self._tmp / uuid.uuid4().hex
        try:
            with temporary.open("xb") as out:
                fill(out)
                out.flush()
                os.fsync(out.fileno())
            self._publish(temporary, path, key)
        except OSError as error:
            raise _translated(error, f"write {path}") from error
        finally:
            # Renamed by now; if not, an error is on its way that this one must not hide, and
            # what stays here is swept when it is old.
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _publish(self, temporary: Path, path: Path, key: str) -> None:
        for attempt in range(_FOLDER_ATTEMPTS):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, path)
                break
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                # The last one also says that a folder was removed while it was made.
                if attempt + 1 == _FOLDER_ATTEMPTS or not isinstance(error, FileExistsError):
                    raise InvalidRequest(
                        f"object key {key!r} is a folder of another object, or below one"
                    ) from error
            except FileNotFoundError:
                if attempt + 1 == _FOLDER_ATTEMPTS:
                    raise
        # Up to the root: another process may have made a folder and not synced it yet.
        for folder in _folders_up_to(path.parent, self._root):
            with contextlib.suppress(FileNotFoundError):
                sync_folder(folder)

    def _sync_after_delete(self, folder: Path) -> None:
        """Make a removal durable, and remove folders that it left empty."""
        try:
            for above in _folders_up_to(folder, self._root):
                with contextlib.suppress(FileNotFoundError):
                    sync_folder(above)
                if above == self._root:
                    return
                try:
                    above.rmdir()
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                        return
                    if error.errno != errno.ENOENT:
                        raise
        except OSError as error:
            raise _translated(error, f"delete in {folder}") from error

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(self._root / folder) as entries:
                # A dict: a name that is replaced during the scan may come twice.
                found = {e.name + "/" if e.is_dir() else e.name: e for e in entries}
        except (FileNotFoundError, NotADirectoryError):
            self._see_that_it_is_there()
            return
        except OSError as error:
            raise _translated(error, f"list {self._root / folder}") from error
        for name, entry in found.items():
            if name.startswith(_TMP):
                continue
            if name.endswith("/"):
                yield from self._walk(folder + name)
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            yield ObjectInfo(folder + name, stat.st_size, stat.st_mtime)


def _folders_up_to(folder: Path, root: Path) -> Iterator[Path]:
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _translated(error: OSError, what: str) -> TuftError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"can't {what}: no space left; free some, or delete checkpoints, and try again"
        )
    return Unavailable(f"can't {what}: {error.strerror or error}")
