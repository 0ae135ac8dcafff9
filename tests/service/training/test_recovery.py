"""A run that is not in memory comes back, to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.service.training.harness import Client, Failed, Trainer, World, random_data
from tests.service.training.reference import assert_same
from tuft.errors import NotFound

StartTrainer = Callable[[World], Trainer]
RL = {"logprobs": 1.0, "advantages": 1.0}


def with_trainer(world: World, **settings: Any) -> World:
    trainer = world.config.trainer.model_copy(update=settings)
    return World(world.store_url, world.config.model_copy(update={"trainer": trainer}))


def submit_step(client: Client, step: int) -> list[str]:
    data = random_data(step, rows=4, spread=RL)
    return [
        client.forward_backward(data[:2], "ppo"),
        client.forward_backward(data[2:], "importance_sampling"),
        client.optim_step(3e-3, grad_clip_norm=1.0),
    ]


def damage(world: World, folder: str) -> None:
    for info in list(world.snapshot_store.list(folder)):
        world.snapshot_store.put(info.key, b"damaged")


def saved(trainer: Trainer, client: Client, name: str) -> dict[str, bytes]:
    trainer.result(client.save(name))
    return client.files(name)


def uninterrupted(trainer: Trainer, steps: int) -> dict[str, bytes]:
    client = trainer.world.client()
    trainer.result(client.create())
    for step in range(steps):
        trainer.all(*submit_step(client, step))
    return saved(trainer, client, "end")


@pytest.mark.parametrize("every", [1, 100, 20_000])
def test_a_new_trainer_goes_on_with_the_same_bits(
    world: World, start_trainer: StartTrainer, every: int
) -> None:
    world = with_trainer(world, snapshot_every_tokens=every)
    expected = uninterrupted(start_trainer(world), 4)
    client = world.client()
    requests = [client.create()]
    trainer = start_trainer(world)
    for step in range(4):
        for request in submit_step(client, step):
            requests.append(request)
            trainer.result(request)
            trainer = start_trainer(world)
    assert_same(saved(trainer, client, "end"), expected)
    snapshot = world.store.runs.status(client.run.run_id).snapshot
    assert (snapshot is None) == (every == 20_000)


def test_results_that_were_given_out_stay(world: World, start_trainer: StartTrainer) -> None:
    trainer, client = start_trainer(world), world.client()
    trainer.result(client.create())
    forward, *_ = submit_step(client, 0)
    trainer.result(forward)
    before = world.store.futures.get(forward)
    trainer = start_trainer(world)
    trainer.result(f"{client.run.run_id}:{client.next_seq - 1}")
    assert world.store.futures.get(forward) == before


def test_failures_and_refusals_are_replayed_as_they_were(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer, client = start_trainer(world), world.client()
    trainer.result(client.create())
    trainer.all(*submit_step(client, 0))
    before = saved(trainer, client, "before")
    bad = random_data(5, rows=1, spread=RL)
    bad[0].inputs["logprobs"][0] = -1e30
    trainer.result(client.forward_backward(random_data(6, rows=2)))
    with pytest.raises(Failed):
        trainer.result(client.forward_backward(bad, "importance_sampling"))
    trainer = start_trainer(world)
    with pytest.raises(Failed, match="seq_id 6 failed: the loss of"):
        trainer.result(client.optim_step())
    trainer.result(client.forward_backward(random_data(6, rows=2)))
    client.refuse("no data")
    trainer.result(client.forward_backward(random_data(7, rows=1)))
    trainer = start_trainer(world)
    with pytest.raises(Failed, match="seq_id 9 was not done: no data"):
        trainer.result(client.optim_step())
    trainer = start_trainer(world)
    assert_same(saved(trainer, client, "after"), before)
    trainer.all(*submit_step(client, 1))
    assert_same(saved(trainer, client, "end"), uninterrupted(trainer, 2))


def test_what_was_cleared_stays_cleared(world: World, start_trainer: StartTrainer) -> None:
    """Gradients and a refusal from before the clearing are no part of the next step."""
    trainer, client = start_trainer(world), world.client()
    trainer.result(client.create())
    trainer.all(*submit_step(client, 0))
    trainer.result(client.forward_backward(random_data(6, rows=2)))
    client.refuse("no data")
    trainer.result(client.clear_gradients())
    trainer = start_trainer(world)
    trainer.all(*submit_step(client, 1))
    assert_same(saved(trainer, client, "end"), uninterrupted(trainer, 2))


def test_more_runs_than_fit_in_memory(world: World, start_trainer: StartTrainer) -> None:
    expected = uninterrupted(start_trainer(world), 3)
    trainer = start_trainer(with_trainer(world, max_resident_adapters=2))
    clients = [world.client() for _ in range(4)]
    for client in clients:
        trainer.result(client.create())
    for step in range(3):
        # One after the other: rows of several runs in one micro-batch would round differently.
        for client in clients:
            trainer.all(*submit_step(client, step))
    for client in clients:
        assert_same(saved(trainer, client, "end"), expected)


def test_the_last_two_snapshots_are_kept_and_the_journal_behind_them_trimmed(
    world: World, start_trainer: StartTrainer
) -> None:
    world = with_trainer(world, snapshot_every_tokens=1)
    trainer, client = start_trainer(world), world.client()
    run_id = client.run.run_id
    trainer.result(client.create())
    for step in range(4):
        data = random_data(step, rows=1)
        trainer.all(client.forward_backward(data, as_object=True), client.optim_step())
        trainer.until_saved(run_id)
    status = world.store.runs.status(run_id)
    newest, before = status.snapshot, status.snapshot_before
    assert newest is not None
    assert before is not None
    assert (newest.seq_id, before.seq_id) == (7, 5)
    kept = [o.key for o in world.snapshot_store.list(f"runs/{run_id}/snapshots")]
    assert {key.split("/")[3] for key in kept} == {"5", "7"}
    assert [entry.seq_id for entry in world.store.journal.entries(run_id, 5, 10)] == [6, 7, 8]
    with pytest.raises(NotFound, match="begins after seq_id 5"):
        world.store.journal.entries(run_id, 4, 10)
    payloads = [o.key for o in world.objects.list(f"payloads/{run_id}")]
    assert [key.rpartition("/")[2].partition("-")[0] for key in payloads] == ["7"]


def test_a_damaged_snapshot_is_passed_over_for_the_one_before(
    world: World, start_trainer: StartTrainer
) -> None:
    world = with_trainer(world, snapshot_every_tokens=1)
    expected = uninterrupted(start_trainer(world), 3)
    trainer, client = start_trainer(world), world.client()
    trainer.result(client.create())
    for step in range(3):
        trainer.all(*submit_step(client, step))
        trainer.until_saved(client.run.run_id)
    snapshot = world.store.runs.status(client.run.run_id).snapshot
    assert snapshot is not None
    damage(world, f"{snapshot.prefix}/")
    assert_same(saved(start_trainer(world), client, "end"), expected)


def test_a_run_that_can_not_be_rebuilt_says_so(world: World, start_trainer: StartTrainer) -> None:
    world = with_trainer(world, snapshot_every_tokens=1)
    trainer, client, other = start_trainer(world), world.client(), world.client()
    trainer.all(client.create(), other.create())
    for step in range(3):
        trainer.all(*submit_step(client, step))
        trainer.until_saved(client.run.run_id)
    damage(world, f"runs/{client.run.run_id}/snapshots")
    trainer = start_trainer(world)
    with pytest.raises(Failed, match=r"could not be rebuilt.*none of its snapshots"):
        trainer.result(client.optim_step())
    trainer.all(*submit_step(other, 0))


def test_a_replay_does_not_need_the_checkpoint_that_was_loaded(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer, source = start_trainer(world), world.client()
    trainer.result(source.create())
    trainer.all(*submit_step(source, 0))
    path = trainer.result(source.save("a"))["path"]
    client = world.client()
    trainer.result(client.create_from(path, source.prefix("a")))
    before = saved(trainer, client, "before")
    world.objects.delete_prefix(source.prefix("a"))
    assert_same(saved(start_trainer(world), client, "after"), before)
