"""Workers that the supervisor forks instead of starting: a campaign kills thousands of them.

A trainer needs five seconds of CPU time to import what it needs; here the supervisor has imported
it once, and its children are copies of it that run the same modules as `python -m` would. They
are its own children, with pids, signals and exit statuses of their own. The product knows nothing
of it: `sitecustomize` puts it into the supervisor of a campaign that asks for it (TUFT_FAULTS_FORK).
"""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

_HEAVY = (
    "torch",
    "deepspeed",
    "deepspeed.ops",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.generation",
    "safetensors.torch",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "fastapi",
    "minio",
    "tinker.proto.tinker_public_pb2",
)
_POLL_S = 0.01
# Whoever lives shorter is started again later and later; campaigns kill faster than that.
_SOON = {"_STARTED_AFTER_S": 0.2, "_TAKE_OVER_S": 0.0}


class Forked:
    """What `subprocess.Popen` is to the supervisor."""

    begin: Callable[[str, Mapping[str, str]], None]
    """Called first of all in the new process, with the module that it runs and its environment."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: IO[bytes],
        preexec_fn: Callable[[], None],
        pass_fds: Iterable[int] = (),
        **_as_always: Any,
    ) -> None:
        self.args = args
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(list(args), env, stdout.fileno(), preexec_fn, set(pass_fds))

    def poll(self) -> int | None:
        if self.returncode is None:
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(_POLL_S)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(
    args: list[str],
    env: Mapping[str, str],
    output: int,
    preexec_fn: Callable[[], None],
    pass_fds: set[int],
) -> None:
    """Run `python -m MODULE` in this process, and end it."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        preexec_fn()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for descriptor in range(3, os.sysconf("SC_OPEN_MAX")):
            if descriptor not in pass_fds:
                with suppress(OSError):
                    os.close(descriptor)
            if descriptor > 4096:
                break
        os.environ.clear()
        os.environ.update(env)
        logging.root.handlers.clear()
        module = args[args.index("-m") + 1]
        Forked.begin(module, env)
        sys.argv = args[args.index("-m") + 1 :]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # it is this process' end, and its log says why
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def install(module: types.ModuleType, begin: Callable[[str, Mapping[str, str]], None]) -> None:
    """Have `tuft.supervisor.child` fork; its own module is given."""
    for name in _HEAVY:
        importlib.import_module(name)
    Forked.begin = staticmethod(begin)
    names: dict[str, Any] = {**vars(subprocess), "Popen": Forked}
    setattr(module, "subprocess", types.SimpleNamespace(**names))  # noqa: B010
    for name, seconds in _SOON.items():
        assert hasattr(module, name), name
        setattr(module, name, seconds)
