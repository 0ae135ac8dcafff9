"""Steps in processes of their own, with which something happens at one of their HTTP requests.

A fork server imports once what steps need, so that a step's process starts in milliseconds; else
it is what `tuft-step` is. Every request of the step is noted, our client's and the Tinker SDK's.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

# Preloaded in the fork server: what every step's process would import.
import tuft_components.start_run.step
import tuft_components.update.step  # noqa: F401
import tuft_sdk._sdk_internals
import tuft_sdk.plans  # noqa: F401
from tests.waiting import wait_until
from tuft_components.cli import main

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["__main__", __name__])
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}(:train:\d+)?")


@dataclass(frozen=True)
class Fault:
    """Before or after the `nth` request of a name, a process is killed, or this one stopped."""

    request: str
    side: Literal["before", "after"]
    nth: int = 1
    action: Literal["kill", "stop"] = "kill"
    victim: int = 0
    """Its process id; 0: the step's own."""

    def __str__(self) -> str:
        return f"{self.action} {self.side} {self.request} #{self.nth}"


@dataclass(frozen=True)
class Outcome:
    """`code` is the exit code, negative for a signal; `requests` is what it sent, in order."""

    code: int
    outputs: Any
    error: str
    requests: list[str]


class StepProcess:
    """A step at work: `arguments` are those of `tuft-step`."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        env: Mapping[str, str],
        fault: Fault | None = None,
    ) -> None:
        self._folder = folder / uuid.uuid4().hex
        self._folder.mkdir(parents=True)
        self._process = _PROCESSES.Process(
            target=_execute, args=(self._folder, list(arguments), dict(env), fault)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_until_stopped(self) -> bool:
        """Whether it stopped itself; else it ended."""
        process = psutil.Process(self.pid)

        def stopped() -> bool:
            return self._process.exitcode is None and process.status() == psutil.STATUS_STOPPED

        wait_until(lambda: self._process.exitcode is not None or stopped(), 60, "it stops or ends")
        return self._process.exitcode is None

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill_after(self, seconds: float) -> None:
        """Kill it, unless it ends before."""
        self._process.join(seconds)
        self._process.kill()

    def wait(self, timeout_s: float = 100) -> Outcome:
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"the step goes on; it sent {self._read('requests')}")
        code, output = self._process.exitcode, self._read("stdout")
        return Outcome(
            code=code,
            outputs=json.loads(output) if code == 0 else None,
            error=self._read("stderr"),
            requests=self._read("requests").splitlines(),
        )

    def _read(self, name: str) -> str:
        file = self._folder / name
        return file.read_text() if file.exists() else ""


def _execute(folder: Path, arguments: list[str], env: dict[str, str], fault: Fault | None) -> None:
    os.environ.update(env)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    _watch(folder / "requests", fault)
    sys.exit(main(arguments))


def _watch(log: Path, fault: Fault | None) -> None:
    """Note the process's requests from now on, and let `fault` happen."""
    seen: Counter[str] = Counter()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(request: httpx.Request) -> Callable[[str], None]:
        path = request.url.path.removeprefix("/api/v1/")
        name = f"{request.method} {_ID.sub('ID', path)}"
        seen[name] += 1
        nth = seen[name]
        os.write(file, f"{name}\n".encode())

        def side(which: str) -> None:
            if fault is not None and (fault.request, fault.nth, fault.side) == (name, nth, which):
                number = signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP
                os.kill(fault.victim or os.getpid(), number)

        return side

    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    def watched(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        side = note(request)
        side("before")
        response = send(self, request, **options)
        side("after")
        return response

    async def watched_async(
        self: httpx.AsyncClient, request: httpx.Request, **options: Any
    ) -> httpx.Response:
        side = note(request)
        side("before")
        response = await send_async(self, request, **options)
        side("after")
        return response

    httpx.Client.send = watched  # type: ignore[method-assign]
    httpx.AsyncClient.send = watched_async  # type: ignore[method-assign]
