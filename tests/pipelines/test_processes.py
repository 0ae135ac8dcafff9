from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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


def grandchild_of(process: subprocess.Popen[str]) -> psutil.Process:
    assert process.stdout is not None
    return psutil.Process(int(process.stdout.readline()))


def running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_however_the_block_ends(error: type[BaseException]) -> None:
    with (
        pytest.raises(error),
        child([sys.executable, "-c", FAMILY], output=subprocess.PIPE) as process,
    ):
        grandchild = grandchild_of(process)
        raise error
    assert process.returncode is not None
    wait_until(lambda: not running(grandchild), 5)


def test_grandchildren_of_a_child_that_ended_are_stopped_too() -> None:
    leaves = FAMILY.replace("time.sleep(600)\n", "sys.exit(3)\n")
    with child([sys.executable, "-c", leaves], output=subprocess.PIPE) as process:
        grandchild = grandchild_of(process)
        assert process.wait() == 3
        assert running(grandchild)
    wait_until(lambda: not running(grandchild), 5)


def test_environment_is_added_to_ours() -> None:
    show = "import os; print(os.environ['TUFT_TEST'], 'PATH' in os.environ)"
    with child(
        [sys.executable, "-c", show], env={"TUFT_TEST": "a"}, output=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == ["a", "True"]


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
