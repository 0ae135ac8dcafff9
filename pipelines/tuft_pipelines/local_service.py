"""A TuFT service of one's own, for as long as a command needs it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tuft_pipelines.errors import ServiceFailed
from tuft_pipelines.processes import child

LOCAL_KEY = "tml-local-dev-key"
_READY_AFTER_S = 300.0
_POLL_S = 0.2
_PROGRESS = "tuft: "


class _NotReady(Exception):
    """Why the wait for the service ended."""


@dataclass(frozen=True)
class LocalService:
    url: str
    api_key: str

    @property
    def env(self) -> dict[str, str]:
        """What a step needs in its environment to connect."""
        return {"TINKER_BASE_URL": self.url, "TINKER_API_KEY": self.api_key}


@contextlib.contextmanager
def local_service(
    folder: Path, *, say: Callable[[str], None], arguments: Sequence[str] = ()
) -> Iterator[LocalService]:
    """Start `tuft` on a free port, wait until its models are loaded, and stop it at the end.

    Args:
        folder: its logs and checkpoints go below.
        say: gets its lines of progress, one by one.
        arguments: more arguments of `tuft` (without --model-config it serves the demo model).

    Raises:
        ServiceFailed: it ended, or was not ready within five minutes.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    command = [sys.executable, "-m", "tuft.cli", "--port", str(port)]
    command += ["--checkpoint-dir", str(folder / "checkpoints"), "--log-dir", str(logs)]
    command += arguments
    log_file = logs / "tuft.log"
    service = LocalService(url=f"http://127.0.0.1:{port}", api_key=LOCAL_KEY)
    with log_file.open("w", encoding="utf-8") as log:

        def on_line(line: str) -> None:
            """Its lines of progress are for the user; all of its lines are for the log."""
            log.write(f"{line}\n")
            log.flush()
            if line.startswith(_PROGRESS):
                say(line.removeprefix(_PROGRESS))

        try:
            with child(command, on_line=on_line) as process:
                _wait_until_ready(service.url, process)
                yield service
        except _NotReady as error:
            # Now that it is stopped, the log has its last words.
            words = log_file.read_text().strip()
            raise ServiceFailed(f"{error}\n{words}\n(logs: {logs})") from None


def _wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _READY_AFTER_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _NotReady(f"the service ended with exit code {process.returncode}:")
        # Not listening yet is what we wait out; an api that answers says itself if it is ready.
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v1/healthz", timeout=5).status_code == httpx.codes.OK:
                return
        time.sleep(_POLL_S)
    raise _NotReady(f"the service was not ready after {_READY_AFTER_S:.0f} s:")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
