"""A trainer that is stalled, and the one that takes over from it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.training.harness import (
    Trainer,
    World,
    random_data,
    trainer_processes,
    wait_result,
)
from tests.service.training.reference import assert_same
from tests.service.training.test_processes import submit
from tests.waiting import wait_until

StartTrainer = Callable[[World], Trainer]


@pytest.mark.slow
def test_a_stalled_trainer_is_replaced_and_writes_nothing_when_it_wakes_up(
    world: World, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    expected = world.client()
    start_trainer(world).all(*submit(expected, 12), expected.save("end"))
    trainer = world.config.trainer.model_copy(update={"lease_s": 1.0})
    world = World(world.store_url, world.config.model_copy(update={"trainer": trainer}))
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with (
        trainer_processes(world, folders[0]) as (stalled,),
        trainer_processes(world, folders[1]) as (standby,),
    ):
        client = world.client()
        requests = [*submit(client, 12), client.save("end")]
        wait_until(lambda: world.store.runs.status(client.run.run_id).cursor >= 10, 60)
        stalled.send_signal(signal.SIGSTOP)
        at = world.store.runs.status(client.run.run_id).cursor
        assert at < client.next_seq - 1, "it was too fast for this test"
        for request in requests:
            wait_result(world, request)
        done = [world.store.futures.get(request) for request in requests]
        stalled.send_signal(signal.SIGCONT)
        assert stalled.wait(30) == 75
        assert "is over: another worker took it" in (folders[0] / "rank0.log").read_text()
        assert [world.store.futures.get(request) for request in requests] == done
        again = client.save("again")
        wait_result(world, again)
        standby.terminate()
        assert standby.wait(30) == 0
    for name in ("end", "again"):
        assert_same(client.files(name), expected.files("end"))


@pytest.mark.slow
@pytest.mark.parametrize("who", ["all", "the leader alone"])
def test_a_stop_ends_all_ranks_and_loses_nothing(
    world: World, start_trainer: StartTrainer, tmp_path: Path, who: str
) -> None:
    """The supervisor asks all of them; an operator may ask rank 0 only."""
    client = world.client()
    with trainer_processes(world, tmp_path, ranks=2) as ranks:
        requests = submit(client, 12)
        wait_until(lambda: world.store.runs.status(client.run.run_id).cursor >= 10, 60)
        for rank in ranks if who == "all" else ranks[:1]:
            rank.terminate()
        assert [rank.wait(60) for rank in ranks] == [0, 0]
    status = world.store.runs.status(client.run.run_id)
    assert 10 <= status.cursor < client.next_seq - 1
    assert status.snapshot is not None
    successor = start_trainer(world)
    done = successor.all(*requests, client.save("end"))
    steps = [
        each["metrics"]["step"] for each in done if isinstance(each, dict) and "metrics" in each
    ]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize("recorded", [True, False])
def test_a_stop_between_computing_and_recording_applies_nothing_twice(
    world: World, start_trainer: StartTrainer, recorded: bool
) -> None:
    """Where there was no time to record it, no snapshot has it."""
    expected, client = world.client(), world.client()
    data = random_data(1, rows=3)
    trainer = start_trainer(world)
    for each in (expected, client):
        trainer.all(each.create(), each.forward_backward(data), each.optim_step(1e-2))
    trainer.all(expected.forward_backward(data), expected.optim_step(1e-2), expected.save("end"))

    forward_backward = client.forward_backward(data)
    gradients = trainer.leader._group._replica._engines
    while gradients[client.run.run_id].adapter.flat.grad is None:
        trainer.leader.turn()
    assert world.store.futures.get(forward_backward)[0].status == "pending"
    (trainer.leader if recorded else trainer.leader._residents).finish(time.monotonic() + 20)
    status = world.store.futures.get(forward_backward)[0].status
    assert status == ("done" if recorded else "pending")
    snapshot = world.store.runs.status(client.run.run_id).snapshot
    assert (snapshot is not None) == recorded

    successor = start_trainer(world)
    successor.all(forward_backward, client.optim_step(1e-2), client.save("end"))
    assert_same(client.files("end"), expected.files("end"))
