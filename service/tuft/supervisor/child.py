"""One group of child processes: started together, restarted together, stopped together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tuft.lifeline import lifeline

logger = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 5.0
# A child that ran this long is healthy: its next death starts with the first backoff again.
_HEALTHY_AFTER_S = 60.0


@dataclass
class ChildGroup:
    """Processes that live and die together: one api, one sampler, or all ranks of a trainer.

    `argv` is common to all; `envs` gives one environment addition a process, anew for every
    start (ranks need a fresh rendezvous port). Output goes to `log_file`.
    """

    name: str
    argv: Sequence[str]
    envs: Callable[[], Sequence[Mapping[str, str]]]
    log_file: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    deaths: int = 0
    _started_at: float = 0.0
    _restart_at: float = 0.0
    _backoff_s: float = _BACKOFF_FIRST_S

    def start(self) -> None:
        """Start every process of the group."""
        self._started_at = time.monotonic()
        with self.log_file.open("ab") as log:
            self.processes = [
                subprocess.Popen(
                    self.argv,
                    env={**os.environ, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Its own process group: Ctrl-C reaches the supervisor, which stops children
                    # in order, instead of everybody at once.
                    start_new_session=True,
                    preexec_fn=lifeline(),  # noqa: PLW1509 (it only makes system calls)
                )
                for env in self.envs()
            ]

    def exit_code(self) -> int | None:
        """The exit code of the first process that ended, or None while all run."""
        for process in self.processes:
            code = process.poll()
            if code is not None:
                return code
        return None

    def keep_up(self) -> int | None:
        """Restart the group if a process ended; call this often.

        Returns:
            The exit code when a death was seen in this call, else None.
        """
        if not self.processes:
            if time.monotonic() >= self._restart_at:
                self.start()
            return None
        code = self.exit_code()
        if code is None:
            return None
        lived = time.monotonic() - self._started_at
        self.stop(grace_s=2.0)
        self.deaths += 1
        if lived > _HEALTHY_AFTER_S:
            self._backoff_s = _BACKOFF_FIRST_S
        self._restart_at = time.monotonic() + self._backoff_s
        logger.warning(
            "%s ended with %s after %.1f s; it is started again in %.1f s (log: %s)",
            self.name,
            _describe_exit(code),
            lived,
            self._backoff_s,
            self.log_file,
        )
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_MAX_S)
        return code

    def signal_stop(self) -> None:
        """Ask every process to end, without waiting."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()

    def stop(self, grace_s: float) -> None:
        """End every process: SIGTERM, and SIGKILL after `grace_s` seconds."""
        self.signal_stop()
        deadline = time.monotonic() + grace_s
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _kill_group(process.pid)
        self.processes = []

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the group printed."""
        if not self.log_file.exists():
            return "(nothing was printed)"
        text = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:]) or "(nothing was printed)"


def _kill_group(leader: int) -> None:
    """End what a child that is gone has left behind: vLLM's processes outlive their parent."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
