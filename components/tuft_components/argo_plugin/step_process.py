"""Runs a step in a process of its own, so that a crash or a leak of one does not hurt the others."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuft_components.errors import ExitCode
from tuft_components.termination import BUG_EXIT_CODE

log = logging.getLogger(__name__)

_CHUNK = 65_536
_KEPT_BYTES = 1_048_576
_STOP_S = 5.0
_LAST_WORDS = "last-words"


@dataclass(frozen=True)
class Outcome:
    """`code` is the exit code, negative for a signal; `message` says why it is not 0."""

    code: int
    outputs: dict[str, Any]
    message: str

    @property
    def transient(self) -> bool:
        """Whether running the step again may help: it says so, or something killed it."""
        return self.code < 0 or self.code == ExitCode.TRANSIENT


async def run_step(name: str, arguments: Sequence[str]) -> Outcome:
    """Run `tuft-step` with these arguments; its process ends if this is cancelled.

    What it writes to its standard error goes to the log under `name`. Its folder, where it may
    write what it likes, is gone afterwards.
    """
    folder = Path(tempfile.mkdtemp(prefix="tuft-step-"))
    last_words = folder / _LAST_WORDS
    try:
        last_words.touch()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tuft_components.argo_plugin.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder), "TERMINATION_LOG": str(last_words)},
        )
        try:
            code, printed, lines = await _talk(process, name, arguments)
        finally:
            await _end(process)
        if code:
            return Outcome(code, {}, last_words.read_text() or _message(code, lines))
        outputs = _outputs(printed)
        if outputs is None:
            return Outcome(BUG_EXIT_CODE, {}, f"{name}: it ended well, but printed no outputs")
        return Outcome(code, outputs, "")
    finally:
        # A promoted model may have left gigabytes there.
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _talk(
    process: asyncio.subprocess.Process, name: str, arguments: Sequence[str]
) -> tuple[int, bytes, list[str]]:
    """Its exit code, what it printed, and the last lines of its standard error."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []

    def told(line: str) -> None:
        log.info("%s: %s", name, line)
        lines.append(line)
        del lines[:-1000]

    reading = asyncio.gather(_tail(process.stdout), _each_line(process.stderr, told))
    try:
        process.stdin.write(json.dumps(list(arguments)).encode() + b"\n")
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        log.warning("%s: its process ended before it was told what to do", name)
    printed, _ = await reading
    return await process.wait(), printed, lines


async def _tail(stream: asyncio.StreamReader) -> bytes:
    data = b""
    while part := await stream.read(_CHUNK):
        data = (data + part)[-_KEPT_BYTES:]
    return data


async def _each_line(stream: asyncio.StreamReader, told: Callable[[str], None]) -> None:
    rest = b""
    while part := await stream.read(_CHUNK):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            told(line.decode(errors="replace"))
        rest = rest[-_CHUNK:]
    if rest:
        told(rest.decode(errors="replace"))


def _outputs(printed: bytes) -> dict[str, Any] | None:
    """The last line that is a JSON object: libraries may print before and after it."""
    for line in reversed(printed.decode(errors="replace").splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return None


def _message(code: int, lines: Sequence[str]) -> str:
    """Of a step that left no last words."""
    if code < 0:
        return f"the step was killed by signal {-code}"
    return "\n".join([f"the step ended with exit code {code}", *lines[-20:]])


async def _end(process: asyncio.subprocess.Process) -> None:
    """It has ended, unless we are cancelled."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
