"""A trainer that is stalled, and the one that takes over from it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from tests.service.training.harness import Trainer, World, trainer_processes, wait_result
from tests.service.training.reference import assert_same
from tests.service.training.test_processes import submit
from tests.waiting import wait_until

StartTrainer = Callable[[World], Trainer]


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
