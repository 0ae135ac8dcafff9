"""Clocks that are set, an hour forth and back, under the service's Python processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults.outages import enduring
from tests.faults.tree import tree
from tuft.training.computing import Computing
from tuft.training.scheduler import Scheduler

_CLOCK = Path(__file__).parent / "clock"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning")
def test_the_clock_is_set(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases, polls, queues and retries go by clocks that nobody sets: clients see nothing."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    monkeypatch.setenv("TUFT_CLOCK", str(clock))
    monkeypatch.setenv("PYTHONPATH", str(_CLOCK))

    def put(offset_s: int) -> None:
        part = tmp_path / "part"
        part.write_text(str(offset_s))
        part.rename(clock)

    with tree(tmp_path / "t", tiny_model_folder, faults=False) as service:
        clients = enduring(service.url, objects=service.objects)
        with clients as work:
            for offset_s in (3600, -3600, 0):
                put(offset_s)
                work.turns(2)
            # A trainer that begins with a wrong clock, and goes on with another one.
            put(-3600)
            service.kill("trainer")
            work.turns(2)
            put(3600)
    assert work.longest_pause_s < 90


def test_a_clock_that_is_set_back_does_not_make_the_trainer_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits some milliseconds for runs that are about to come: by the time they came before."""
    scheduler = Scheduler(
        start=cast("Callable[[str], Any]", None),
        computing=cast("Computing", _Waiting()),
        slots=1,
        quantum=1,
    )
    now = time.time()
    scheduler._patience.went("r", "alice", now)
    scheduler._patience.came("r", now + 0.02)
    scheduler._patience.went("r", "alice", time.time())
    assert 0 < scheduler.patience_s() < 0.1
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert scheduler.patience_s() < 0.1


class _Waiting:
    """A pool with rows in it."""

    last_s = 1.0

    def __len__(self) -> int:
        return 1

    def would_take(self, _tenant: str) -> bool:
        return True
