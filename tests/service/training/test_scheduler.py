from __future__ import annotations

import pytest

from tuft.training.scheduler import Scheduler, Task


class Log:
    """Tasks that write down what they do."""

    def __init__(self, pieces: dict[str, list[float]], max_active: int = 10) -> None:
        self.pieces = pieces
        self.done: list[str] = []
        self.scheduler = Scheduler(self._task, max_active)

    def _task(self, run_id: str) -> Task:
        for pause in self.pieces[run_id]:
            self.done.append(run_id)
            yield pause

    def work(self) -> str:
        while self.scheduler.turn():
            pass
        return "".join(self.done)


def test_runs_take_turns_whatever_they_have_to_do() -> None:
    log = Log({"a": [0.0] * 4, "b": [0.0], "c": [0.0] * 2})
    for run_id in "abc":
        log.scheduler.wake(run_id)
    assert log.work() == "abcacaa"
    assert log.scheduler.idle_s() is None


def test_a_wake_during_the_work_starts_it_again() -> None:
    log = Log({"a": [0.0]})
    log.scheduler.wake("a")
    log.scheduler.turn()
    log.scheduler.wake("a")
    assert log.work() == "aa"


def test_only_so_many_are_under_way() -> None:
    log = Log({"a": [0.0] * 2, "b": [0.0] * 2}, max_active=1)
    log.scheduler.wake("a")
    log.scheduler.wake("b")
    log.scheduler.turn()
    assert (log.scheduler.is_active("a"), log.scheduler.is_active("b")) == (True, False)
    assert log.work() == "aabb"


def test_a_pausing_run_does_not_hold_up_others() -> None:
    log = Log({"a": [3600.0, 0.0], "b": [0.0] * 2})
    log.scheduler.wake("a")
    log.scheduler.wake("b")
    assert log.work() == "abb"
    idle = log.scheduler.idle_s()
    assert idle is not None
    assert 3590 < idle <= 3600


def test_what_a_task_raises_is_raised() -> None:
    def task(_run_id: str) -> Task:
        yield 0.0
        raise RuntimeError("lost")

    scheduler = Scheduler(task, 1)
    scheduler.wake("a")
    assert scheduler.turn()
    with pytest.raises(RuntimeError, match="lost"):
        scheduler.turn()
