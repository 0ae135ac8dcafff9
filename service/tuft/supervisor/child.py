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
from typing import IO

from tuft.lifeline import lifeline

logger = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 5.0
# A child that ran this long did start: it is started again at once. Others may fail at their
# start, again and again, and wait longer each time.
_STARTED_AFTER_S = 5.0
# Where another group takes over, that one gets the machine for a moment: a start takes much of it.
_TAKE_OVER_S = 3.0
# Ranks whose first one has ended as it was asked to end, too.
_OTHERS_GRACE_S = 2.0
_LOOK_EVERY_S = 0.02


@dataclass
class ChildGroup:
    """Processes that live and die together: one api, one sampler, or all ranks of a trainer.

    `argv` is common to all; `envs` gives one environment addition a process, anew for every
    start (ranks need a fresh rendezvous port). Output goes to `log_file`. `pass_fds` are open
    files that each process gets under the same numbers. `twin` is a group that takes over when
    this one ends.
    """

    name: str
    argv: Sequence[str]
    envs: Callable[[], Sequence[Mapping[str, str]]]
    log_file: Path
    pass_fds: Sequence[int] = ()
    twin: ChildGroup | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    deaths: int = 0
    _started_at: float = 0.0
    _restart_at: float = 0.0
    _backoff_s: float = _BACKOFF_FIRST_S

    def start(self) -> None:
        """Start every process of the group, or none. Raises: OSError."""
        self._started_at = time.monotonic()
        try:
            with self.log_file.open("ab") as log:
                for env in self.envs():
                    self.processes.append(self._start_one(env, log))
        except OSError:
            self.kill()
            raise

    def _start_one(self, env: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=self.pass_fds,
            # Its own process group: Ctrl-C reaches the supervisor, which stops children in
            # order, instead of everybody at once.
            start_new_session=True,
            preexec_fn=lifeline(),  # noqa: PLW1509 (it only makes system calls)
        )

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
                self._start_again()
            return None
        code = self.exit_code()
        if code is None:
            return None
        lived = self._lived_s()
        # The others of its group can do nothing without it.
        self.wait(_OTHERS_GRACE_S if code == 0 else 0.0)
        self.kill()
        self.deaths += 1
        if lived <= _STARTED_AFTER_S:
            delay = self._next_backoff()
        else:
            self._backoff_s = _BACKOFF_FIRST_S
            takes_over = self.twin is not None and self.twin._lived_s() > _STARTED_AFTER_S
            delay = _TAKE_OVER_S if takes_over else 0.0
        logger.warning(
            "%s ended with %s after %.1f s; it is started again %s (log: %s)",
            self.name,
            _describe_exit(code),
            lived,
            f"in {delay:.1f} s" if delay else "at once",
            self.log_file,
        )
        self._restart_at = time.monotonic() + delay
        if not delay:
            self._start_again()
        return code

    def _lived_s(self) -> float:
        return time.monotonic() - self._started_at if self.processes else 0.0

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:
            # No memory or no disk, say: others go on meanwhile.
            delay = self._next_backoff()
            self._restart_at = time.monotonic() + delay
            logger.error("%s can't be started, trying again in %.1f s: %s", self.name, delay, error)  # noqa: TRY400

    def _next_backoff(self) -> float:
        backoff, self._backoff_s = self._backoff_s, min(self._backoff_s * 2, _BACKOFF_MAX_S)
        return backoff

    def signal_stop(self) -> None:
        """Ask every process to end, without waiting."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()

    def wait(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Until every process has ended, `grace_s` seconds are over, or `hurry` says so."""
        deadline = time.monotonic() + grace_s
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() >= deadline or hurry():
                return
            time.sleep(_LOOK_EVERY_S)

    def kill(self) -> None:
        """End every process at once, with what it has started."""
        for process in self.processes:
            _kill_group(process.pid)
            process.wait()
        self.processes = []

    def stop(self, grace_s: float) -> None:
        """End every process: SIGTERM, and SIGKILL after `grace_s` seconds."""
        self.signal_stop()
        self.wait(grace_s)
        self.kill()

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
