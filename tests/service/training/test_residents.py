"""More training runs than fit: they go to disk, and come back as they were."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.training.harness import SPEC, Client, Failed, Trainer, World, random_data
from tests.service.training.reference import assert_same
from tuft.contracts.records import LoraSpec
from tuft.training import commands
from tuft.training.group import RankGroup

StartTrainer = Callable[[World], Trainer]
OTHER_SHAPE = LoraSpec(rank=2, alpha=16, seed=7, train_mlp=False)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[commands.Command]:
    """What the ranks were told to do."""
    found: list[commands.Command] = []
    call = RankGroup.call

    def noting(group: RankGroup, command: commands.Command) -> list[object]:
        found.append(command)
        return call(group, command)

    monkeypatch.setattr(RankGroup, "call", noting)
    return found


def with_trainer(world: World, **settings: Any) -> World:
    trainer = world.config.trainer.model_copy(update=settings)
    return World(world.store_url, world.config.model_copy(update={"trainer": trainer}))


def begun(trainer: Trainer, spec: LoraSpec = SPEC) -> Client:
    """With weights, moments, and a gradient that waits for its optim_step."""
    client = trainer.world.client(spec)
    trainer.result(client.create())
    trainer.all(client.forward_backward(random_data(1, rows=3)), client.optim_step(3e-3))
    trainer.result(client.forward_backward(random_data(2, rows=3)))
    return client


def ended(trainer: Trainer, client: Client) -> dict[str, bytes]:
    trainer.all(client.forward_backward(random_data(3, rows=2)), client.optim_step(3e-3))
    trainer.result(client.save("end"))
    return client.files("end")


@pytest.fixture
def expected(world: World, start_trainer: StartTrainer) -> dict[str, bytes]:
    trainer = start_trainer(world)
    return ended(trainer, begun(trainer))


def test_idle_runs_come_back_from_disk_with_their_gradients(
    world: World,
    start_trainer: StartTrainer,
    expected: dict[str, bytes],
    done: list[commands.Command],
) -> None:
    """Of two shapes, so that they come back into engines of others and into new ones."""
    trainer = start_trainer(with_trainer(world, max_resident_adapters=1))
    clients = [begun(trainer, spec) for spec in (SPEC, OTHER_SHAPE, SPEC, OTHER_SHAPE)]
    ends = [ended(trainer, client) for client in clients]
    assert_same(ends[0], expected)
    assert_same(ends[2], expected)
    assert_same(ends[3], ends[1])
    spilled = [command.run_id for command in done if isinstance(command, commands.Spill)]
    assert set(spilled) == {client.run.run_id for client in clients}
    assert not any(isinstance(command, commands.Restore) for command in done)
    # As many as were sent: nothing was replayed.
    assert sum(isinstance(command, commands.Compute) for command in done) == 4 * 3
    assert not list(world.snapshot_store.list("runs"))


def test_beyond_the_limit_the_one_that_went_first_comes_back_by_a_snapshot(
    world: World,
    start_trainer: StartTrainer,
    expected: dict[str, bytes],
    done: list[commands.Command],
) -> None:
    moments = len(expected["optimizer.safetensors"])  # half of what a run takes on disk
    trainer = start_trainer(
        with_trainer(world, max_resident_adapters=1, spill_gb=5 * moments / 1e9)
    )
    clients = [begun(trainer) for _ in range(4)]
    done.clear()
    assert_same(ended(trainer, clients[2]), expected)
    assert not any(isinstance(command, commands.Resume) for command in done)
    assert_same(ended(trainer, clients[0]), expected)
    assert any(isinstance(command, commands.Resume) for command in done)


def test_without_disk_they_come_back_by_snapshots(
    world: World, start_trainer: StartTrainer, expected: dict[str, bytes]
) -> None:
    trainer = start_trainer(with_trainer(world, max_resident_adapters=1, spill_gb=0.0))
    clients = [begun(trainer) for _ in range(2)]
    for client in clients:
        assert_same(ended(trainer, client), expected)


def test_a_full_disk_is_no_failure(
    world: World,
    start_trainer: StartTrainer,
    expected: dict[str, bytes],
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    trainer = start_trainer(with_trainer(world, max_resident_adapters=1))
    (small_disk / "ballast").write_bytes(bytes(900_000))
    clients = [begun(trainer) for _ in range(2)]
    for client in clients:
        assert_same(ended(trainer, client), expected)
    assert "no room for an idle adapter" in caplog.text


def test_a_run_that_failed_is_put_away_and_says_so_again(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer = start_trainer(with_trainer(world, max_resident_adapters=1))
    client = world.client()
    with pytest.raises(Failed):
        trainer.result(client.create_from("tinker://gone/weights/a", "runs/gone/weights/a"))
    begun(trainer)
    with pytest.raises(Failed, match="could not be created"):
        trainer.result(client.optim_step())
