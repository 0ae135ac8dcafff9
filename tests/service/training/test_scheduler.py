"""Small pieces of work in turns, and slots where more runs have work than are under way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.training.harness import MODEL
from tuft.training.budget import Budget
from tuft.training.computing import Computing
from tuft.training.group import Place, RankGroup
from tuft.training.replica import Replica
from tuft.training.scheduler import Scheduler, Task


class Log:
    """Tasks that write down what they do. The tenant of "a1" is "a"."""

    def __init__(self, group: RankGroup, slots: int = 10) -> None:
        self.pieces: dict[str, list[float]] = {}
        self.done: list[str] = []
        self.scheduler = Scheduler(
            self._task, Computing(group, Budget(128, 128)), slots, quantum=100
        )

    def _task(self, run_id: str) -> Task:
        for pause in self.pieces[run_id]:
            self.done.append(run_id)
            yield pause

    def wake(self, run_id: str, *pieces: float) -> None:
        self.pieces.setdefault(run_id, list(pieces))
        self.scheduler.wake(run_id, run_id[0])

    def work(self) -> str:
        while self.scheduler.pieces():
            pass
        return " ".join(self.done)


@pytest.fixture
def group(base_model: Any, place: Place) -> RankGroup:
    return RankGroup(Replica(base_model, MODEL, 0), place)


@pytest.fixture
def log(group: RankGroup) -> Log:
    return Log(group)


def test_tenants_take_turns_and_so_do_their_runs(log: Log) -> None:
    log.wake("a1", 0.0, 0.0, 0.0)
    log.wake("a2", 0.0, 0.0)
    log.wake("b1", 0.0, 0.0, 0.0)
    assert log.work() == "a1 b1 a2 b1 a1 b1 a2 a1"
    assert log.scheduler.idle_s() is None


def test_a_wake_during_the_work_starts_it_again(log: Log) -> None:
    log.wake("a1", 0.0)
    log.scheduler.pieces()
    log.wake("a1")
    log.wake("a1")
    assert log.work() == "a1 a1"


def test_only_so_many_are_under_way_and_tenants_share_the_slots(group: RankGroup) -> None:
    log = Log(group, slots=2)
    for run_id in ("a1", "a2", "a3", "b1"):
        log.wake(run_id, 0.0, 0.0)
    assert list(log.scheduler.waiting) == ["a1", "a2", "a3", "b1"]
    log.scheduler.pieces()
    assert [log.scheduler.is_active(r) for r in ("a1", "a2", "a3", "b1")] == [
        True,
        False,
        False,
        True,
    ]
    assert list(log.scheduler.waiting) == ["a2", "a3"]
    assert log.work() == "a1 b1 a1 b1 a2 a3 a2 a3"
    assert log.scheduler.waiting == {}


def test_a_pausing_run_does_not_hold_up_others(log: Log) -> None:
    log.wake("a1", 3600.0, 0.0)
    log.wake("a2", 0.0, 0.0)
    assert log.work() == "a1 a2 a2"
    idle = log.scheduler.idle_s()
    assert idle is not None
    assert 3590 < idle <= 3600


def test_a_run_gives_way_after_its_quantum_where_others_wait(group: RankGroup) -> None:
    log = Log(group, slots=1)
    log.wake("a1", *[0.0] * 9)
    log.scheduler.pieces()
    log.scheduler.use("a1", 100)
    assert not log.scheduler.gives_way("a1", at_rest=True), "nobody waits"
    log.wake("b1")
    assert log.scheduler.gives_way("a1", at_rest=True)
    assert not log.scheduler.gives_way("a1", at_rest=False), "its gradients would go with it"
    log.scheduler.use("a1", 300)
    assert log.scheduler.gives_way("a1", at_rest=False)


def test_what_a_task_raises_is_raised(group: RankGroup) -> None:
    def task(_run_id: str) -> Task:
        yield 0.0
        raise RuntimeError("lost")

    scheduler = Scheduler(task, Computing(group, Budget(128, 128)), 1, quantum=1)
    scheduler.wake("a1", "a")
    assert scheduler.pieces()
    with pytest.raises(RuntimeError, match="lost"):
        scheduler.pieces()
