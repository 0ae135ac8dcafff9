"""A real `tuft` whose processes are killed: what runs, and how to make it end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.waiting import wait_until
from tuft.config import load_config
from tuft.objects import ObjectStore, open_object_store
from tuft.supervisor.tree import free_port

INJECT = Path(__file__).parent / "inject"
KEYS = {tenant: f"tml-{tenant}-key" for tenant in ("alice", "bob", "carol", "dave")}
_MODULES = {
    "api": "tuft.api",
    "trainer": "tuft.training",
    # One that is not rank 0 takes rank 0 along.
    "rank": "tuft.training",
    "sampler": "tuft.sampling",
}
_START_S = 300.0


class Faults:
    """The folder through which the service's processes are told where to die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("armed", "passed"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def arm(self, point: str) -> None:
        (self.folder / "armed" / point).touch()

    def is_armed(self, point: str) -> bool:
        """Whether no process has died there since it was armed."""
        return (self.folder / "armed" / point).exists()

    def disarm(self, point: str) -> bool:
        """Whether it was armed until now."""
        try:
            (self.folder / "armed" / point).unlink()
        except FileNotFoundError:
            return False
        return True

    def disarm_all(self) -> None:
        for point in os.listdir(self.folder / "armed"):
            self.disarm(point)

    def passed(self) -> set[str]:
        """Points that any process came to."""
        return set(os.listdir(self.folder / "passed"))


@dataclass
class Tree:
    """`tuft` in a folder of its own, on a port that stays the same over its restarts.

    With `faults`, its processes have fault points. `prefix` comes before its command line.
    """

    folder: Path
    config: Path
    faults: Faults | None = None
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    fork: bool = False
    """Workers are forked (inject/forking.py)."""
    starts: int = 0
    _process: subprocess.Popen[str] | None = None
    _output: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def objects(self) -> ObjectStore:
        """Where its checkpoints are."""
        config = load_config(self.config).object_store
        return open_object_store(config, self._checkpoint_dir)

    @property
    def _checkpoint_dir(self) -> Path:
        return self.folder / "checkpoints"

    def start(self) -> None:
        """Start `tuft`, and return when it is ready."""
        self.starts += 1
        self._output = []
        command = [*self.prefix, sys.executable, "-m", "tuft.cli"]
        command += ["--host", self.host, "--port", str(self.port)]
        command += [
            "--checkpoint-dir",
            str(self._checkpoint_dir),
            "--model-config",
            str(self.config),
        ]
        # Logs of each start are kept: those of a killed one tell what it was doing.
        command += ["--log-dir", str(self.folder / "logs" / str(self.starts))]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env(),
            # Ctrl-C is for the campaign, which stops it.
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        process = self._process
        wait_until(lambda: process.poll() is not None or self._says("Ctrl-C stops it"), _START_S)
        if process.poll() is not None:
            raise RuntimeError(f"tuft did not start:\n{''.join(self._output)}")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def processes(self, role: str) -> list[psutil.Process]:
        """The living processes of a role; of workers those that serve and those that stand by."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self._process.pid)
            if role == "supervisor":
                return [supervisor]
            children = supervisor.children(recursive=True)
            if role == "everything":
                return [supervisor, *children]
            return [child for child in children if self._is(child, role)]
        return []

    def kill(self, role: str, choose: int = 0, how: signal.Signals = signal.SIGKILL) -> bool:
        """End one process of a role (or all of them: "everything"); False where none is there."""
        found = self.processes(role)
        if not found:
            return False
        for victim in found if role == "everything" else [found[choose % len(found)]]:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(how)
        if role in ("supervisor", "everything"):
            assert self._process is not None
            self._process.wait(10)
        return True

    def revive(self) -> None:
        """Start `tuft` again where it was killed, once its children are gone, too."""
        assert self._process is not None
        if self._process.poll() is not None:
            wait_until(self._is_deserted, 60, "children of a killed supervisor end")
            self.start()

    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _is_deserted(self) -> bool:
        """No process is left that was started with our configuration."""
        mark = str(self.folder)
        for process in psutil.process_iter(["environ", "cmdline", "status"]):
            info = process.info
            if info["status"] == psutil.STATUS_ZOMBIE:
                continue
            if mark in (info["environ"] or {}).get("TUFT_FAULTS", ""):
                return False
            if any(mark in word for word in info["cmdline"] or []):
                return False
        return True

    def _is(self, process: psutil.Process, role: str) -> bool:
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if role == "store":
                return process.name().startswith(("valkey", "redis"))
            return _MODULES[role] in (*process.cmdline(), self._forked_as(process.pid))
        return False

    def _forked_as(self, pid: int) -> str:
        """The module that a forked process runs (inject/forking.py)."""
        try:
            return (self.folder / "faults" / "roles" / str(pid)).read_text()
        except FileNotFoundError:
            return ""

    def _env(self) -> dict[str, str]:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        # Marks our processes, also where there are no fault points.
        env["TUFT_FAULTS"] = str(self.folder / "faults")
        if self.faults is not None:
            paths = [str(INJECT), os.environ.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
            if self.fork:
                env["TUFT_FAULTS_FORK"] = "1"
        return env

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._output.extend(process.stdout)

    def _says(self, words: str) -> bool:
        return any(words in line for line in self._output)


def write_config(folder: Path, model_folder: Path, **sections: Mapping[str, Any]) -> Path:
    """A models.yaml with the tiny model, the tenants of `KEYS`, and small limits, so that
    payloads and results go both ways, inline and as objects, and snapshots are frequent."""
    data: dict[str, Any] = {
        "supported_models": [{"model_name": "tiny", "model_path": str(model_folder)}],
        "api_keys": [{"key": key, "tenant": tenant} for tenant, key in KEYS.items()],
        "persistence": {"mode": "file_redis", "file_path": str(folder / "state")},
        # Fixed, so that a replay packs rows as the first time did, whatever ran before.
        "trainer": {"micro_batch_tokens": 256, "snapshot_every_tokens": 500},
        "sampler": {},
        "limits": {"inline_payload_bytes": 1200},
    }
    for name, section in sections.items():
        data[name] = {**data.get(name, {}), **section}
    file = folder / "models.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@contextmanager
def tree(
    folder: Path,
    model_folder: Path,
    *,
    faults: bool = True,
    fork: bool = False,
    **sections: Mapping[str, Any],
) -> Iterator[Tree]:
    """A running `tuft`, with fault points where asked for; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder, model_folder, **sections)
    found = Tree(folder, config, Faults(folder / "faults") if faults else None, fork=fork)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        deadline = time.monotonic() + 20
        while not found._is_deserted() and time.monotonic() < deadline:
            time.sleep(0.1)
