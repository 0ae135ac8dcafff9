"""What kills the trainer is found out: the third time it is alone, and then it has failed (D6)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.service.training.harness import (
    Client,
    Failed,
    Trainer,
    World,
    random_data,
    result_of,
    trainer_processes,
    wait_result,
)
from tests.waiting import wait_until
from tuft.training import commands
from tuft.training.group import RankGroup
from tuft.training.inflight import InFlight

StartTrainer = Callable[[World], Trainer]


def test_marks_are_there_after_the_one_who_made_them(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "marks"
    first = InFlight(file)
    assert first.left_behind() == ("", [])
    first.begin("a", 4)
    first.begin("b", 7)
    first.mark(["a", "b", "unknown"])
    life, marks = InFlight(file).left_behind()
    assert marks == [("a", 4), ("b", 7)]
    assert InFlight(file).left_behind()[0] == life
    first.clear()
    assert InFlight(file).left_behind() == ("", [])


def test_marks_that_can_not_be_read_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "marks"
    InFlight(file)
    file.write_bytes(b"\x05\0\0\0" + b"[[1,2" + bytes(1 << 18))
    assert InFlight(file).left_behind() == ("", [])
    assert "nothing is held against it" in caplog.text


def test_more_marks_than_there_is_room_for_lose_some(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    marks = InFlight(file)
    names = [f"{n}" * 200 for n in range(2000)]
    for name in names:
        marks.begin(name, 1)
    marks.mark(names)
    assert 0 < len(InFlight(file).left_behind()[1]) < 2000


def test_a_folder_that_can_not_be_used_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    marks = InFlight(tmp_path / "file" / "marks")
    marks.begin("a", 1)
    marks.mark(["a"])
    assert marks.left_behind() == ("", [])
    assert "can't be used" in caplog.text


class Death(BaseException):
    """Takes the place of a kill: nothing of the trainer's runs after it."""


def dying(trainer: Trainer, request: str) -> None:
    with pytest.raises(Death):
        trainer.result(request)


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Runs whose rows end the trainer; all that were computed together go with them."""
    runs: set[str] = set()
    call = RankGroup._do

    def do(group: RankGroup, command: commands.Command) -> object:
        if isinstance(command, commands.Compute) and runs & set(command.on_behalf_of()):
            raise Death
        return call(group, command)

    monkeypatch.setattr(RankGroup, "_do", do)
    return runs


def test_who_kills_three_times_has_failed_and_the_others_go_on(
    world: World, start_trainer: StartTrainer, deadly: set[str], tmp_path: Path
) -> None:
    def successor() -> Trainer:
        trainer = start_trainer(world)
        trainer.leader._group.inflight = InFlight(tmp_path / "marks")
        stop = threading.Event()
        stop.set()
        trainer.leader.run(stop)  # begins, and does nothing yet
        return trainer

    trainer = successor()
    guilty, innocent = world.client(), world.client()
    trainer.all(guilty.create(), innocent.create())
    deadly.add(guilty.run.run_id)
    bad = guilty.forward_backward(random_data(1, rows=2))
    good = innocent.forward_backward(random_data(2, rows=2))
    for _ in range(2):
        dying(trainer, bad)
        trainer = successor()
    both = {client.run.run_id: 2 for client in (guilty, innocent)}
    deaths = {run_id: world.store.journal.deaths(run_id).get(1, 0) for run_id in both}
    assert deaths == both, "they were in one micro-batch, so either may have done it"
    dying(trainer, bad)
    trainer = successor()
    with pytest.raises(
        Failed, match=r"the trainer died 3 times .* last time on nothing else"
    ) as got:
        trainer.result(bad)
    assert got.value.category == "server"
    assert trainer.result(good).metrics["loss:sum"] > 0
    assert world.store.journal.deaths(innocent.run.run_id) == {}
    # A gradient that is not whole is never applied.
    with pytest.raises(Failed, match="was not applied"):
        trainer.result(guilty.optim_step())
    deadly.clear()
    trainer.all(guilty.forward_backward(random_data(1, rows=2)), guilty.optim_step())


def test_a_replay_that_kills_ends_its_run_only(world: World, start_trainer: StartTrainer) -> None:
    trainer, client, other = start_trainer(world), world.client(), world.client()
    trainer.all(client.create(), other.create())
    trainer.result(client.forward_backward(random_data(1, rows=2)))
    for life in "abc":
        world.store.journal.note_death(client.run.run_id, 1, life)
    trainer = start_trainer(world)
    with pytest.raises(Failed, match="could not be rebuilt: the trainer died 3 times"):
        trainer.result(client.optim_step())
    trainer.all(other.forward_backward(random_data(1, rows=2)), other.optim_step())


def test_deaths_before_a_replay_that_went_well_are_forgotten(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer, client = start_trainer(world), world.client()
    trainer.all(client.create(), client.forward_backward(random_data(1, rows=2)))
    for life in "aabb":
        world.store.journal.note_death(client.run.run_id, 1, life)
    start_trainer(world).result(client.optim_step())
    assert world.store.journal.deaths(client.run.run_id) == {}


def deaths_are(world: World, run_id: str, count: int) -> bool:
    return sum(world.store.journal.deaths(run_id).values()) == count


@pytest.mark.slow
def test_a_killed_process_left_its_marks(world: World, tmp_path: Path) -> None:
    """With kill -9, three times in the middle of the same operation."""
    assert world.config.state_folder is not None
    marks = InFlight(world.config.state_folder / "inflight" / "trainer%3Atest%2Ftiny")
    client: Client = world.client()
    requests = [client.create(), client.forward_backward(random_data(1, rows=4000, longest=64))]
    run_id = client.run.run_id
    for deaths in range(3):
        with trainer_processes(world, tmp_path) as (child,):
            # Those of the trainer before are counted first, and then gone.
            wait_until(partial(deaths_are, world, run_id, deaths), 60)
            wait_until(lambda: marks.left_behind()[1] == [(run_id, 1)], 60)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    with trainer_processes(world, tmp_path):
        with pytest.raises(Failed, match="died 3 times"):
            wait_result(world, requests[1])
        wait_result(world, client.clear_gradients())
        wait_result(world, client.forward_backward(random_data(1, rows=4)))
    result_of(world, requests[0])
