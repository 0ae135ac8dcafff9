"""Sandboxes on this machine, made by bubblewrap."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import selectors
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from tuft_components.errors import BadConfiguration, TransientFailure
from tuft_components.sandbox import bubblewrap, seccomp
from tuft_components.sandbox.jobs import Job, Limit, Limits, Result, limit_in, shortened
from tuft_components.sandbox.watch import exceeded, usage

_LOOK_S = 0.02
_END_S = 10.0
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_log = logging.getLogger(__name__)


class NotMade(Exception):
    """Bubblewrap could not make the sandbox: nothing was run. The text is what it said."""


class LocalSandbox:
    """As many jobs at once as there is room for; others wait."""

    def __init__(self, at_once: int | None = None) -> None:
        """`at_once`: None for as many as there are CPUs."""
        self.at_once = at_once or len(os.sched_getaffinity(0))
        self._room = threading.BoundedSemaphore(self.at_once)
        self._lock = threading.Lock()
        self._checked = False

    def check(self) -> str:
        """As `Sandbox.check`: makes one, the first time."""
        with self._lock:
            if not self._checked:
                _try()
                self._checked = True
        return f"bubblewrap on this machine, {self.at_once} at a time"

    def run(self, job: Job) -> Result:
        """As `Sandbox.run`."""
        self.check()
        with self._room:
            try:
                return _run(job)
            except NotMade as error:
                raise TransientFailure(f"a sandbox could not be made: {error}") from error


def _try() -> None:
    why = bubblewrap.refusal()
    if why:
        raise BadConfiguration(why)
    try:
        result = _run(Job(code="import os\nprint(os.getuid())", limits=Limits(wall_s=60)))
    except NotMade as error:
        raise BadConfiguration(bubblewrap.hint(str(error))) from error
    if result.stdout.strip() != str(bubblewrap.NOBODY):
        raise BadConfiguration(
            f"Python does not run in a sandbox here (exit status {result.status}"
            f"{result.limit and ', limit '}{result.limit}): {result.stderr or result.stdout}"
        )


@dataclass
class _Seen:
    """What was seen of a program until its end. `status` is what bubblewrap tells, in JSON."""

    limit: Limit = ""
    out: dict[str, bytearray] = field(
        default_factory=lambda: {name: bytearray() for name in ("stdout", "stderr", "status")}
    )

    def text(self, name: str, kept_kb: int) -> str:
        return shortened(self.out[name].decode(errors="replace"), kept_kb << 10)

    def exit_code(self) -> int | None:
        """Of the program; None where there was none, or it was ended from outside."""
        told = [json.loads(line) for line in self.out["status"].splitlines()]
        return next((each["exit-code"] for each in told if "exit-code" in each), None)


@dataclass
class _Started:
    """Bubblewrap's process. Of `status` we read; what is written to `go` begins the program."""

    process: subprocess.Popen[bytes]
    status: int
    go: int


def _run(job: Job) -> Result:
    began = monotonic()
    with _started(job) as started:
        seen = _watch(started, job.limits, began)
    code, limit = seen.exit_code(), seen.limit
    if code is None and not limit:
        said = seen.text("stderr", 4).strip()
        raise NotMade(said or f"exit status {started.process.returncode}")
    stderr = seen.text("stderr", job.limits.kept_kb)
    if not limit and code:
        # 24: SIGXCPU, which the kernel sends to a process by itself
        limit = "cpu" if code == 128 + 24 else limit_in(stderr)
    return Result(
        status=128 + 9 if code is None else code,
        limit=limit,
        stdout=seen.text("stdout", job.limits.kept_kb),
        stderr=stderr,
        seconds=monotonic() - began,
    )


@contextmanager
def _started(job: Job) -> Iterator[_Started]:
    """Bubblewrap at work; nothing of it is left behind the block."""
    with ExitStack() as stack:

        def kept(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        status, tell = os.pipe()
        kept(status)
        with ExitStack() as passed:
            passed.callback(os.close, tell)
            wait, go = os.pipe()
            passed.callback(os.close, wait)
            kept(go)
            process = _start(job, tell, wait)
        with process:
            try:
                yield _Started(process, status, go)
            finally:
                process.kill()


def _start(job: Job, tell: int, wait: int) -> subprocess.Popen[bytes]:
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        other = {"user": bubblewrap.NOBODY, "group": bubblewrap.NOBODY, "extra_groups": []}
    with ExitStack() as stack:

        def sealed(content: str | bytes) -> int:
            text = content.encode() if isinstance(content, str) else content
            descriptor = _sealed(text)
            stack.callback(os.close, descriptor)
            return descriptor

        files = {name: sealed(text) for name, text in {**job.files, "main.py": job.code}.items()}
        given = bubblewrap.Descriptors(files, sealed(seccomp.program()), tell, wait)
        try:
            return subprocess.Popen(
                bubblewrap.command(bubblewrap.interpreter(), job.limits, given),
                stdin=sealed(job.stdin),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=given.all(),
                env={"PATH": os.environ.get("PATH", "/usr/bin")},  # not even for bubblewrap: keys
                cwd="/",
                start_new_session=True,
                **other,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NotMade(str(error)) from error


def _sealed(content: bytes) -> int:
    """A file in memory that nobody can change any more, open at its beginning."""
    descriptor = os.memfd_create("tuft-sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _watch(started: _Started, limits: Limits, began: float) -> _Seen:
    """Reads what it says until it has ended, and ends it at the first limit."""
    seen, process = _Seen(), started.process
    look = ended = 0.0
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        assert process.stderr is not None
        for name, pipe in (
            ("stdout", process.stdout.fileno()),
            ("stderr", process.stderr.fileno()),
            ("status", started.status),
        ):
            selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select(_LOOK_S):
                _read(key.fd, key.data, seen, started, selector)
            now = monotonic()
            if seen.limit:
                if now > ended + _END_S:
                    raise TransientFailure("a sandbox's processes could not be ended")
            elif now >= look:
                look = now + _LOOK_S
                seen.limit = _met(process.pid, limits, seen, now - began)
                if seen.limit:
                    ended = now
                    process.kill()  # what is inside ends with it
    process.wait()
    return seen


def _read(
    descriptor: int, name: str, seen: _Seen, started: _Started, selector: selectors.BaseSelector
) -> None:
    part = os.read(descriptor, 65_536)
    if not part:
        selector.unregister(descriptor)
    elif name == "status" or not seen.limit:
        if name == "status" and not seen.out[name]:
            # Bubblewrap now ends with us. Before, it would outlive a process that is killed.
            with suppress(BrokenPipeError):  # it has failed already, and says so
                os.write(started.go, b"x")
        seen.out[name] += part


def _met(pid: int, limits: Limits, seen: _Seen, seconds: float) -> Limit:
    if len(seen.out["stdout"]) + len(seen.out["stderr"]) > limits.output_kb << 10:
        return "output"
    if seconds > limits.wall_s:
        return "wall"
    return exceeded(usage(pid, limits), limits)
