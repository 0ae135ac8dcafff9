"""Child groups: real processes that end, hang and come back."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until
from tuft.supervisor import child
from tuft.supervisor.child import ChildGroup

PRINT_AND_WAIT = "import os,signal; print(os.environ['MARK'], flush=True); signal.pause()"


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


@pytest.fixture
def groups() -> Iterator[list[ChildGroup]]:
    """Groups to stop at the end, whatever happened."""
    started: list[ChildGroup] = []
    yield started
    for group in started:
        group.stop(grace_s=0.1)


def group_of(groups: list[ChildGroup], code: str, log_file: Path, processes: int = 1) -> ChildGroup:
    starts = count()

    def envs() -> list[dict[str, str]]:
        start = next(starts)
        return [{"MARK": f"start{start}-rank{rank}"} for rank in range(processes)]

    group = ChildGroup("test", [sys.executable, "-c", code], envs, log_file)
    groups.append(group)
    group.start()
    return group


def test_the_death_of_one_rank_restarts_the_group(groups: list[ChildGroup], log_file: Path) -> None:
    group = group_of(groups, PRINT_AND_WAIT, log_file, processes=2)
    wait_until(lambda: log_file.read_text().count("start0") == 2, 10)
    first = [process.pid for process in group.processes]
    assert group.keep_up() is None
    os.kill(first[1], signal.SIGKILL)
    wait_until(lambda: group.keep_up() == -signal.SIGKILL, 10)
    # Both come back, with a fresh environment each, after the backoff.
    wait_until(lambda: group.keep_up() is None and log_file.read_text().count("start1") == 2, 10)
    assert not set(first) & {process.pid for process in group.processes}


def test_one_that_had_started_is_started_again_at_once(
    groups: list[ChildGroup], log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = group_of(groups, PRINT_AND_WAIT, log_file, processes=2)
    wait_until(lambda: log_file.read_text().count("start0") == 2, 10)
    monkeypatch.setattr(child, "_STARTED_AFTER_S", 0.0)
    first = [process.pid for process in group.processes]
    os.kill(first[1], signal.SIGKILL)
    wait_until(lambda: group.keep_up() == -signal.SIGKILL, 10)
    # In the very call that saw the death; nobody waits for the other one either.
    assert [process.poll() for process in group.processes] == [None, None]
    assert not set(first) & {process.pid for process in group.processes}
    wait_until(lambda: not psutil.pid_exists(first[0]), 10)


def test_one_that_fails_at_its_start_waits_longer_each_time(
    groups: list[ChildGroup], log_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = group_of(groups, "raise SystemExit(1)", log_file)
    wait_until(lambda: group.keep_up() == 1 and group.deaths == 2, 20)
    assert re.findall(r"started again (\S+ \S+)", caplog.text) == ["in 0.5", "in 1.0"]


def test_a_group_that_can_not_be_started_now_is_tried_again(
    groups: list[ChildGroup], log_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = group_of(groups, PRINT_AND_WAIT, log_file)
    wait_until(lambda: "start0" in log_file.read_text(), 10)
    group.processes[0].kill()
    group.log_file = log_file.parent / "gone" / "child.log"
    wait_until(lambda: group.keep_up() == -signal.SIGKILL, 10)
    wait_until(lambda: group.keep_up() or "can't be started" in caplog.text, 10)
    assert group.processes == []
    group.log_file = log_file
    wait_until(lambda: group.keep_up() is None and "start1" in log_file.read_text(), 10)


def test_exit_codes_and_output_are_told(groups: list[ChildGroup], log_file: Path) -> None:
    group = group_of(groups, "import sys; print('no model'); sys.exit(78)", log_file)
    codes: list[int | None] = []

    def ended() -> bool:
        codes.append(group.keep_up())
        return codes[-1] is not None

    wait_until(ended, 10)
    assert codes[-1] == 78
    assert group.deaths == 1
    assert "no model" in group.log_tail()


def test_a_child_that_ignores_the_request_is_killed(
    groups: list[ChildGroup], log_file: Path
) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PRINT_AND_WAIT
    group = group_of(groups, stubborn, log_file)
    wait_until(lambda: "start0" in log_file.read_text(), 10)
    [process] = group.processes
    group.stop(grace_s=0.2)
    assert process.returncode == -signal.SIGKILL


def test_what_a_killed_child_leaves_behind_ends_with_it(
    groups: list[ChildGroup], log_file: Path
) -> None:
    """Grandchildren that do not look after their parent, like vLLM's processes."""
    code = (
        "import subprocess,sys,signal; "
        "child=subprocess.Popen([sys.executable,'-c','import signal; signal.pause()']); "
        "print(child.pid, flush=True); signal.pause()"
    )
    group = group_of(groups, code, log_file)
    wait_until(lambda: log_file.read_text().endswith("\n"), 10)
    grandchild = psutil.Process(int(log_file.read_text()))
    group.processes[0].kill()
    wait_until(lambda: group.keep_up() == -signal.SIGKILL, 10)
    wait_until(
        lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, 10
    )
