"""A real `tuft` process tree for tests, started the way a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.waiting import wait_until

START_TIMEOUT_S = 600


@dataclass
class Service:
    """A running service: `url`, its supervisor process, and what it printed."""

    url: str
    process: subprocess.Popen[str]
    checkpoint_dir: Path
    log_dir: Path
    output: list[str] = field(default_factory=list)

    def child(self, module: str) -> psutil.Process:
        """The (first) child process that runs `python -m module`."""
        for child in psutil.Process(self.process.pid).children():
            if module in child.cmdline():
                return child
        raise LookupError(f"no child runs {module}")

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


def write_config(folder: Path, model_folder: Path, **sections: Any) -> Path:
    """A models.yaml with the tiny model and the given further sections."""
    data = {
        "supported_models": [{"model_name": "tiny", "model_path": str(model_folder)}],
        **sections,
    }
    file = folder / "models.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@contextmanager
def running(
    folder: Path, config: Path | None, *, port: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """`tuft` on `config`, ready; stopped at the end. Everything it writes is below `folder`."""
    checkpoint_dir, log_dir = folder / "checkpoints", folder / "logs"
    command = [sys.executable, "-m", "tuft.cli", "--port", str(port)]
    command += ["--checkpoint-dir", str(checkpoint_dir), "--log-dir", str(log_dir)]
    if config is not None:
        command += ["--model-config", str(config)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    service = Service("", process, checkpoint_dir, log_dir)
    reader = threading.Thread(target=_read, args=(process, service.output), daemon=True)
    reader.start()
    try:
        wait_until(
            lambda: process.poll() is not None or "Ctrl-C stops it" in "".join(service.output),
            START_TIMEOUT_S,
        )
        text = "".join(service.output)
        match = re.search(r"URL\s+(http://\S+)", text)
        if match is None:
            raise RuntimeError(f"tuft did not start:\n{text}\n{_logs(log_dir)}")
        service.url = match.group(1)
        yield service
    finally:
        service.stop()
        reader.join(5)


def _read(process: subprocess.Popen[str], into: list[str]) -> None:
    assert process.stdout is not None
    into.extend(process.stdout)


def _logs(log_dir: Path) -> str:
    parts = [f"--- {file.name}\n{file.read_text()[-2000:]}" for file in log_dir.glob("*.log")]
    return "\n".join(parts)
