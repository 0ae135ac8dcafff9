"""Snapshots: with what waits for its optim_step, beside the work, and within bounds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.training.harness import Client, Failed, Trainer, World, random_data
from tests.service.training.reference import assert_same
from tests.service.training.test_recovery import saved, submit_step, with_trainer
from tuft.config import ObjectStoreConfig
from tuft.contracts.records import SnapshotRecord
from tuft.errors import NotFound, QueueFull
from tuft.store import RunStatus
from tuft.training.snapshots import Snapshots, wanted_snapshot

StartTrainer = Callable[[World], Trainer]


def half_a_step(trainer: Trainer) -> Client:
    """Two steps, and gradients of half of a third; what is being saved of it is written."""
    client = trainer.world.client()
    trainer.result(client.create())
    for step in range(2):
        trainer.all(*submit_step(client, step))
    trainer.until_saved(client.run.run_id)
    trainer.all(client.forward_backward(random_data(7, rows=3)))
    trainer.until_saved(client.run.run_id)
    return client


def rest_of_it(trainer: Trainer, client: Client) -> dict[str, bytes]:
    trainer.all(client.forward_backward(random_data(8, rows=3)), client.optim_step(3e-3))
    return saved(trainer, client, "end")


def standing(world: World, client: Client) -> RunStatus:
    return world.store.runs.status(client.run.run_id)


def test_gradients_come_back_from_a_snapshot_to_the_same_bits(
    world: World, start_trainer: StartTrainer
) -> None:
    plain = start_trainer(world)
    expected = rest_of_it(plain, half_a_step(plain))
    trainer = start_trainer(with_trainer(world, snapshot_every_tokens=1))
    client = half_a_step(trainer)
    status = standing(world, client)
    assert status.snapshot is not None
    assert (status.snapshot.seq_id, status.snapshot.accumulated) == (status.cursor, True)
    # Nothing is left to replay: this can only come from the snapshot.
    assert_same(rest_of_it(start_trainer(world), client), expected)


def test_why_a_step_must_fail_comes_back_with_them(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer = start_trainer(with_trainer(world, snapshot_every_tokens=1))
    client = half_a_step(trainer)
    client.refuse("it was malformed")
    trainer.result(client.forward_backward(random_data(8, rows=3)))
    trainer.until_saved(client.run.run_id)
    snapshot = standing(world, client).snapshot
    assert snapshot is not None
    assert snapshot.poison is not None
    with pytest.raises(Failed, match=r"was not applied, since.*it was malformed"):
        start_trainer(world).result(client.optim_step())


def test_a_stop_saves_what_a_replay_would_cost(world: World, start_trainer: StartTrainer) -> None:
    plain = start_trainer(world)
    expected = rest_of_it(plain, half_a_step(plain))
    trainer = start_trainer(with_trainer(world, max_resident_adapters=1))
    clients = [half_a_step(trainer) for _ in range(2)]  # one of them went to disk
    assert all(standing(world, client).snapshot is None for client in clients)
    trainer.leader.finish(time.monotonic() + 60)
    for client in clients:
        status = standing(world, client)
        assert status.snapshot is not None
        assert status.snapshot.seq_id == status.cursor
    trainer = start_trainer(world)
    for client in clients:
        assert_same(rest_of_it(trainer, client), expected)


def test_what_has_no_room_in_the_folder_goes_to_the_object_store(
    world: World, start_trainer: StartTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = start_trainer(with_trainer(world, snapshot_every_tokens=1, snapshot_gb=1e-5))
    client = half_a_step(trainer)
    snapshot = standing(world, client).snapshot
    assert snapshot is not None
    assert not snapshot.local
    assert world.objects.exists(f"{snapshot.prefix}/manifest.json")
    assert not list(world.snapshot_store.list(""))
    assert "others go to the object store" in caplog.text


def on_small_disk(world: World, disk: Path, **trainer: Any) -> World:
    objects = ObjectStoreConfig(path=disk / "objects")
    config = with_trainer(world, **trainer).config
    changed = {"state_folder": disk / "state", "object_store": objects}
    return World(world.store_url, config.model_copy(update=changed))


def test_where_there_is_no_room_at_all_the_journal_keeps_what_it_has(
    world: World, start_trainer: StartTrainer, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = start_trainer(world)
    expected = rest_of_it(plain, half_a_step(plain))
    full = on_small_disk(world, small_disk, snapshot_every_tokens=1)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    trainer = start_trainer(full)
    client = half_a_step(trainer)
    assert "no space left" in caplog.text
    assert standing(world, client).snapshot is None
    ballast.unlink()
    assert_same(rest_of_it(start_trainer(full), client), expected)


def test_weights_that_can_not_be_kept_are_not_loaded(
    world: World, start_trainer: StartTrainer, small_disk: Path
) -> None:
    """A replay would need their checkpoint, which may be gone by then."""
    trainer = start_trainer(on_small_disk(world, small_disk))
    client = trainer.world.client()
    trainer.result(client.create())
    path = trainer.result(client.save("a"))["path"]
    trainer.all(*submit_step(client, 0))
    before = saved(trainer, client, "before")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    with pytest.raises(Failed, match="was not loaded, since there is no room"):
        trainer.result(client.load(path, client.prefix("a")))
    ballast.unlink()
    assert_same(saved(trainer, client, "after"), before)
    trainer.result(client.load(path, client.prefix("a")))


def test_a_folder_that_fills_up_keeps_one_snapshot_a_run(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer = start_trainer(with_trainer(world, snapshot_every_tokens=1))
    client = half_a_step(trainer)
    before = standing(world, client).snapshot
    assert before is not None
    size = sum(info.size for info in world.snapshot_store.list(before.prefix))
    # Room for three; from half of that on, two are too many.
    tight = with_trainer(world, snapshot_every_tokens=1, snapshot_gb=size * 3.6 / 1e9)
    trainer = start_trainer(tight)
    trainer.all(*submit_step(client, 3))
    trainer.until_saved(client.run.run_id)
    kept = {info.key.split("/")[3] for info in world.snapshot_store.list("runs")}
    newest = standing(world, client).snapshot
    assert newest is not None
    assert kept == {str(newest.seq_id)}


def test_they_go_where_the_configuration_says(world: World, start_trainer: StartTrainer) -> None:
    trainer = start_trainer(with_trainer(world, snapshot_every_tokens=1, snapshots="object_store"))
    client = half_a_step(trainer)
    snapshot = standing(world, client).snapshot
    assert snapshot is not None
    assert not snapshot.local
    assert world.objects.exists(f"{snapshot.prefix}/manifest.json")
    # Another machine has another state folder, and needs none for this.
    assert world.config.state_folder is not None
    elsewhere = world.config.model_copy(update={"state_folder": world.config.state_folder / "b"})
    trainer = start_trainer(World(world.store_url, elsewhere))
    trainer.all(*submit_step(client, 3))


def test_a_run_that_takes_no_more_operations_gets_a_snapshot(
    world: World, start_trainer: StartTrainer, small_disk: Path
) -> None:
    """The disk was full while its journal grew, and nothing is pending that would wake it."""
    limits = world.config.limits.model_copy(update={"max_journal_operations": 6})
    disk = on_small_disk(world, small_disk)
    world = World(world.store_url, disk.config.model_copy(update={"limits": limits}))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    trainer, client = start_trainer(world), world.client()
    trainer.result(client.create())
    trainer.all(*(client.optim_step() for _ in range(5)))
    with pytest.raises(QueueFull, match="behind its last snapshot"):
        client.optim_step()
    ballast.unlink()
    client.next_seq -= 1
    with pytest.raises(QueueFull):
        client.optim_step()
    client.next_seq -= 1
    trainer.leader.turn()
    trainer.until_saved(client.run.run_id)
    trainer.result(client.optim_step())


def test_local_ones_of_runs_that_are_gone_are_removed(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer = start_trainer(with_trainer(world, snapshot_every_tokens=1))
    client = half_a_step(trainer)
    world.snapshot_store.put("runs/gone:train:0/snapshots/4/manifest.json", b"{}")
    snapshots = trainer.leader.snapshotting.snapshots
    snapshots.remove_of_others(lambda run_id: run_id == client.run.run_id)
    runs = {info.key.split("/")[1] for info in world.snapshot_store.list("runs")}
    assert runs == {client.run.run_id}


def test_a_snapshot_of_another_machine_is_told(world: World, tmp_path: Path) -> None:
    config = world.config.model_copy(update={"state_folder": None})
    snapshots = Snapshots(config, world.objects)
    elsewhere = SnapshotRecord(seq_id=3, prefix="runs/a/snapshots/3", step=1, local=True)
    with pytest.raises(NotFound, match="state folder of the trainer's machine"):
        snapshots.read(elsewhere)


def test_the_room_that_snapshots_take_is_counted(world: World) -> None:
    trainer: Any = world.config.trainer.model_copy(update={"snapshot_gb": 3500 / 1e9})
    snapshots = Snapshots(world.config.model_copy(update={"trainer": trainer}), world.objects)
    run = world.client().run

    def write(seq_id: int) -> SnapshotRecord:
        wanted = wanted_snapshot(run.run_id, seq_id, step=0, accumulated=False, poison=None)
        return snapshots.write(run, wanted, {"state.safetensors": bytes(1000)})

    records = [write(seq_id) for seq_id in (1, 2, 3, 4)]
    assert [record.local for record in records] == [True, True, True, False]
    snapshots.remove_before(records[2])
    assert write(5).local
