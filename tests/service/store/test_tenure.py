"""Leaders and those who wait, on a real store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tuft.errors import LeaseLost
from tuft.slots import Slot
from tuft.store import Lease, Store, Tenure, connect

GROUP = "trainer:m"
LONG = 60.0
SHORT = 0.4


class Worker:
    """A worker of the group, in this process."""

    def __init__(self, store: Store, holder: str, ttl_s: float, folder: Path | None) -> None:
        self.store = store
        self.slot = None if folder is None else Slot(folder, GROUP, holder)
        self.tenure = Tenure(store.workers, GROUP, holder, ttl_s, self.slot)
        self.stop = threading.Event()
        self.waits = threading.Event()
        self.lost = threading.Event()

    def begin(self) -> Lease | None:
        lease = self.tenure.begin(self.stop, self.waits.set)
        if lease is not None:
            self.tenure.keep(self.lost.set)
        return lease

    def die(self) -> None:
        """As the system sees a kill -9: it renews nothing, and its lock is gone."""
        self.tenure._ended.set()
        if self.slot is not None:
            self.slot.release()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def waiting(pool: ThreadPoolExecutor, worker: Worker) -> Future[Lease | None]:
    """It has found out that another one leads."""
    begun = pool.submit(worker.begin)
    assert worker.waits.wait(10)
    return begun


def test_on_one_machine_the_successor_of_a_killed_one_needs_not_wait(
    store: Store, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    first, second = (Worker(store, name, LONG, tmp_path) for name in ("a", "b"))
    begun = first.begin()
    assert begun is not None
    assert not first.waits.is_set()
    successor = waiting(pool, second)
    first.die()
    lease = successor.result(10)
    assert lease is not None
    with pytest.raises(LeaseLost):
        store.workers.check(begun)
    # And so on: the second one's name is found by the third.
    third = Worker(store, "c", LONG, tmp_path)
    successor = waiting(pool, third)
    second.die()
    assert successor.result(10) is not None
    third.die()


def test_from_another_machine_it_is_taken_when_its_time_is_over(
    store: Store, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    here, there = (Worker(store, name, SHORT, tmp_path / name) for name in ("a", "b"))
    assert here.begin() is not None
    successor = waiting(pool, there)
    time.sleep(2 * SHORT)
    assert not successor.done(), "its leader renews it"
    assert here.tenure.lost is None
    here.die()
    assert successor.result(10) is not None
    there.die()


def test_a_stalled_leader_learns_that_it_is_one_no_more(
    store: Store, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    stalled, successor = (Worker(store, name, SHORT, tmp_path) for name in ("a", "b"))
    old = stalled.tenure.begin(stalled.stop, stalled.waits.set)
    assert old is not None
    # It has the slot and renews nothing, as a process that is stopped.
    new = waiting(pool, successor).result(10)
    assert new is not None
    assert successor.slot is not None
    assert not successor.slot.held
    stalled.tenure.keep(stalled.lost.set)
    assert stalled.lost.wait(10)
    assert isinstance(stalled.tenure.lost, LeaseLost)
    stalled.tenure.end()
    store.workers.check(new)
    # The slot is the new leader's then, and who comes next finds its name there.
    wait_until(lambda: successor.slot is not None and successor.slot.held, 10)
    successor.die()
    third = Worker(store, "c", LONG, tmp_path)
    assert third.begin() is not None
    third.die()


@pytest.mark.parametrize("local", [True, False])
def test_who_ends_lets_others_begin_at_once(
    store: Store, tmp_path: Path, pool: ThreadPoolExecutor, local: bool
) -> None:
    first, second = (
        Worker(store, name, LONG if local else 5.0, tmp_path if local else None)
        for name in ("a", "b")
    )
    assert first.begin() is not None
    successor = waiting(pool, second)
    begun = time.monotonic()
    first.tenure.end()
    assert successor.result(10) is not None
    assert time.monotonic() - begun < 3
    second.tenure.end()
    assert second.tenure.lost is None


def test_a_free_slot_does_not_help_against_a_leader_elsewhere(
    store: Store, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """And who waits does not keep the slot: it is for whoever leads."""
    elsewhere = Worker(store, "a", LONG, None)
    assert elsewhere.begin() is not None
    here = Worker(store, "b", LONG, tmp_path)
    begun = waiting(pool, here)
    other = Slot(tmp_path, GROUP, "other")
    wait_until(other.take, 10)
    here.stop.set()
    assert begun.result(10) is None
    elsewhere.tenure.end()


def test_a_store_that_is_away_is_waited_for(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    away = Worker(Store(connect(f"unix://{tmp_path}/none.sock")), "a", LONG, tmp_path)
    begun = waiting(pool, away)
    assert not begun.done()
    away.stop.set()
    assert begun.result(10) is None
