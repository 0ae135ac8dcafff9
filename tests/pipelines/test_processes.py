from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest

from tests.waiting import wait_until
from tuft_pipelines.errors import ServiceFailed
from tuft_pipelines.local_service import local_service
from tuft_pipelines.processes import child, sigterm_interrupts

# A child that ignores SIGINT and has a child of its own, whose pid it prints.
FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(600)
"""


def running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_however_the_block_ends(error: type[BaseException]) -> None:
    lines: SimpleQueue[str] = SimpleQueue()
    with (
        pytest.raises(error),
        child([sys.executable, "-c", FAMILY], on_line=lines.put) as process,
    ):
        grandchild = psutil.Process(int(lines.get(timeout=10)))
        raise error
    assert process.returncode is not None
    wait_until(lambda: not running(grandchild), 5)


def test_grandchildren_of_a_child_that_ended_are_stopped_too() -> None:
    leaves = FAMILY.replace("time.sleep(600)\n", "sys.exit(3)\n")
    lines: SimpleQueue[str] = SimpleQueue()
    with child([sys.executable, "-c", leaves], on_line=lines.put) as process:
        grandchild = psutil.Process(int(lines.get(timeout=10)))
        assert process.wait() == 3
        assert running(grandchild)
    wait_until(lambda: not running(grandchild), 5)


def test_environment_is_added_to_ours() -> None:
    show = "import os; print(os.environ['TUFT_TEST'], 'PATH' in os.environ)"
    lines: list[str] = []
    with child(
        [sys.executable, "-c", show], env={"TUFT_TEST": "a"}, on_line=lines.append
    ) as process:
        process.wait()
    assert lines == ["a True"]


def test_sigterm_unwinds_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    missing = tmp_path / "models.yaml"
    with (
        pytest.raises(ServiceFailed, match=r"exit code 78[^$]*can't read .*models\.yaml"),
        local_service(tmp_path, say=print, arguments=["--model-config", str(missing)]),
    ):
        pytest.fail("it must not start")
