"""Requests to stop, as real processes get them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

HEAD = "import hashlib, os, signal, sys, time\nfrom tuft.stopping import Stop\nstop = Stop()\n"
# C code that runs for a minute, and lets other threads run meanwhile.
COMPUTE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)\n"
READY = "print('ready', flush=True)\n"


def end(code: str, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, float]:
    """Exit status, output and time from the signal to the end."""
    child = subprocess.Popen([sys.executable, "-c", HEAD + code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "ready\n"
        begun = time.monotonic()
        child.send_signal(number)
        said = child.stdout.read()
        return child.wait(20), said, time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_anything_has_begun_the_end_is_at_once(number: signal.Signals) -> None:
    code, _, seconds = end(READY + COMPUTE, number)
    assert code == 0
    assert seconds < 10


def test_what_has_begun_is_finished() -> None:
    code, said, _ = end(
        "stop.graceful(10)\n" + READY + "stop.requested.wait()\n"
        "left = stop.deadline - time.monotonic()\n"
        "print(7 < left < 10, stop.orphaned)\nsys.exit(3)\n"
    )
    assert (code, said) == (3, "True False\n")


def test_a_stop_that_takes_too_long_is_ended() -> None:
    code, _, seconds = end("stop.graceful(0.3)\n" + READY + COMPUTE)
    assert code == 1
    assert 0.3 <= seconds < 10


PARENT = """
import subprocess, sys, time
from tuft.lifeline import lifeline
subprocess.Popen([sys.executable, "-c", sys.argv[1]], preexec_fn=lifeline())
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems can't tie a child to its parent")
def test_an_orphan_knows_that_it_is_one_and_does_not_live_long() -> None:
    code = "stop.graceful(600)\n" + READY + "stop.requested.wait()\n"
    code += "print(stop.orphaned, stop.deadline - time.monotonic() < 5, flush=True)\n" + COMPUTE
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, HEAD + code], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        # The end of the file is that of the child, too.
        assert parent.stdout.read() == "True True\n"
