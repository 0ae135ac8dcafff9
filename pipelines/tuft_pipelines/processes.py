"""Child processes of a command: each in a session of its own, and none outlives the command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

_KILL_AFTER_S = 30.0


@contextlib.contextmanager
def child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run `command` while the block runs; at its end, however it ends, nothing of it is left.

    The child leads a session, so that Ctrl-C reaches only us, and we stop things in order.
    It gets SIGTERM; its whole group is killed after it ended or 30 s passed.

    Args:
        env: additions to our environment.
        on_line: called from a thread with each line that it prints (stdout and stderr), until
            the last; None lets it print where we print.
    """
    process = subprocess.Popen(
        list(command),
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=None if on_line is None else subprocess.PIPE,
        stderr=None if on_line is None else subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    reader = threading.Thread(target=_read, args=(process, on_line), daemon=True)
    reader.start()
    try:
        yield process
    finally:
        with _uninterrupted():
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_KILL_AFTER_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join(_KILL_AFTER_S)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that `finally` and `with` do their work."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read(process: subprocess.Popen[str], on_line: Callable[[str], None] | None) -> None:
    if process.stdout is None or on_line is None:
        return
    with process.stdout:
        for line in process.stdout:
            on_line(line.rstrip("\n"))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C while stopping must not leave children behind."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
