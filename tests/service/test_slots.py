"""Slots: one process at a time, and the next as soon as it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tuft.slots import Slot

HOLDER = """
import signal, sys
from pathlib import Path
from tuft.slots import Slot
slot = Slot(Path(sys.argv[1]), "a/job", "the holder")
assert slot.take()
slot.sign()
print("held", flush=True)
signal.pause()
"""


def test_a_slot_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = Slot(tmp_path / "slots", "job", "first"), Slot(tmp_path / "slots", "job", "b")
    other = Slot(tmp_path / "slots", "another/job", "other")
    assert first.take()
    assert first.take(), "it holds it"
    assert other.take()
    assert not second.take()
    first.sign()
    first.release()
    first.release()
    assert second.take()
    assert second.previous == "first"
    second.sign()
    second.release()
    assert first.take()
    assert first.previous == "b", "nothing is left of the longer name"


def test_who_only_looked_has_not_been_there(tmp_path: Path) -> None:
    owner, looker = Slot(tmp_path, "job", "owner"), Slot(tmp_path, "job", "looker")
    assert owner.take()
    owner.sign()
    owner.release()
    assert looker.take()
    looker.release()
    assert owner.take()
    assert owner.previous == "owner"
    looker.release()
    with pytest.raises(RuntimeError, match="not held"):
        looker.sign()


def test_kill_9_frees_it_and_a_stop_does_not(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == b"held\n"
        slot = Slot(tmp_path, "a/job", "successor")
        os.kill(child.pid, signal.SIGSTOP)
        assert not slot.take()
        child.kill()
        wait_until(slot.take, 10)
    assert slot.previous == "the holder"


def test_a_folder_that_can_not_be_used_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "slots").touch()
    slot = Slot(tmp_path / "slots", "job", "me")
    assert not slot.take()
    assert "can't be used now" in caplog.text
    (tmp_path / "slots").unlink()
    assert slot.take()
