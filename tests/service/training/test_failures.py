"""Operations that fail: clearly, alone, and without a partial gradient ever being applied."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.leases import take_lease
from tests.service.training.harness import MODEL, Client, Failed, Trainer, World, random_data
from tests.service.training.reference import assert_same
from tests.waiting import wait_until
from tuft.config import ObjectStoreConfig
from tuft.errors import LeaseLost

RL = {"logprobs": 1.0, "advantages": 1.0}


def created(trainer: Trainer) -> Client:
    client = trainer.world.client()
    trainer.result(client.create())
    return client


def saved(trainer: Trainer, client: Client, name: str) -> dict[str, bytes]:
    trainer.result(client.save(name))
    return client.files(name)


def trained(trainer: Trainer) -> Client:
    client = created(trainer)
    trainer.all(client.forward_backward(random_data(1, rows=3)), client.optim_step())
    return client


def assert_goes_on(trainer: Trainer, client: Client) -> None:
    """From here on it trains as one that never had the failure: no gradient is left over."""
    data = random_data(99, rows=2)
    path = trainer.result(client.save("here"))["path"]
    other = trainer.world.client()
    trainer.result(other.create_from(path, client.prefix("here")))
    for run in (client, other):
        trainer.all(run.forward_backward(data), run.optim_step())
    assert_same(saved(trainer, client, "end"), saved(trainer, other, "end"))


def test_a_loss_that_is_not_finite_fails_and_poisons_the_next_step(trainer: Trainer) -> None:
    client = trained(trainer)
    before = saved(trainer, client, "before")
    bad = random_data(2, rows=3, spread=RL)
    bad[1].inputs["logprobs"][0] = -1e30
    good = client.forward_backward(random_data(3, rows=1))
    failing = client.forward_backward(bad, "importance_sampling")
    also_good = client.forward_backward(random_data(4, rows=1))
    step = client.optim_step()
    trainer.result(good)
    with pytest.raises(Failed, match=r"the loss of data\[1\] is (inf|-inf|nan)") as caught:
        trainer.result(failing)
    assert caught.value.category == "user"
    trainer.result(also_good)
    with pytest.raises(Failed, match=f"forward_backward with seq_id {client.next_seq - 3} failed"):
        trainer.result(step)
    assert_same(saved(trainer, client, "after"), before)
    assert_goes_on(trainer, client)


def test_a_gradient_that_is_not_finite_is_not_applied(trainer: Trainer) -> None:
    client = trained(trainer)
    before = saved(trainer, client, "before")
    data = random_data(2, rows=1, spread={"weights": 1.0})
    data[0].inputs["weights"][:] = 1e30  # a finite loss, but the gradient's norm overflows
    output = trainer.result(client.forward_backward(data))
    assert np.isfinite(output.metrics["loss:sum"])
    with pytest.raises(Failed, match=r"norm of the gradient is (inf|nan)") as caught:
        trainer.result(client.optim_step())
    assert caught.value.category == "user"
    assert_same(saved(trainer, client, "after"), before)
    assert_goes_on(trainer, client)


def test_a_refused_forward_backward_poisons_the_next_step(trainer: Trainer) -> None:
    client = trained(trainer)
    before = saved(trainer, client, "before")
    first = client.forward_backward(random_data(2, rows=2))
    client.refuse("data[0] is empty")
    step = client.optim_step()
    trainer.result(first)
    with pytest.raises(Failed, match=r"with seq_id 5 was not done: data\[0\] is empty"):
        trainer.result(step)
    assert_same(saved(trainer, client, "after"), before)
    assert_goes_on(trainer, client)


def test_another_refusal_is_passed_over(trainer: Trainer) -> None:
    client = trained(trainer)
    trainer.result(client.forward_backward(random_data(2, rows=2)))
    client.refuse("checkpoint name '/' is malformed", poisons=False)
    assert trainer.result(client.optim_step())["metrics"]["step"] == 2


def test_operations_behind_a_gap_wait_for_it(trainer: Trainer) -> None:
    client = created(trainer)
    client.skip()
    waiting = client.forward_backward(random_data(1, rows=1))
    for _ in range(3):
        trainer.leader.turn()
    assert trainer.world.store.futures.get(waiting)[0].status == "pending"
    seq, client.next_seq = client.next_seq, 1
    late = client.forward_backward(random_data(2, rows=1))
    client.next_seq = seq
    trainer.all(late, waiting)
    assert trainer.result(client.optim_step())["metrics"]["step"] == 1


def test_a_gap_that_is_never_filled_times_out(
    world: World, start_trainer: Callable[[World], Trainer]
) -> None:
    limits = world.config.limits.model_copy(update={"gap_timeout_s": 0.3})
    world = World(world.store_url, world.config.model_copy(update={"limits": limits}))
    trainer = start_trainer(world)
    client = created(trainer)
    client.skip()
    began = time.monotonic()
    waiting, step = client.forward_backward(random_data(1, rows=1)), client.optim_step()
    trainer.result(waiting)
    assert time.monotonic() - began > 0.29
    with pytest.raises(Failed, match=r"seq_id 1 was not done: it did not arrive within 0\.3 s"):
        trainer.result(step)


def test_an_unforeseen_failure_fails_its_operation_and_the_run_is_rebuilt(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = trained(trainer)
    before = saved(trainer, client, "before")
    # The api checks token ids; this one gets by it, and the embedding raises an IndexError.
    data = random_data(2, rows=3)
    bad = [data[0], type(data[1])([5000] * len(data[1].tokens), data[1].targets), data[2]]
    failing, step = client.forward_backward(bad), client.optim_step()
    with pytest.raises(Failed, match=r"internal error in the trainer: rank 0: \w+") as caught:
        trainer.result(failing)
    assert caught.value.category == "server"
    with pytest.raises(Failed, match="was not applied"):
        trainer.result(step)
    assert_same(saved(trainer, client, "after"), before)
    assert_goes_on(trainer, client)


def test_other_runs_do_not_notice(trainer: Trainer) -> None:
    failing, quiet, alone = created(trainer), created(trainer), created(trainer)
    bad = random_data(2, rows=1, spread=RL)
    bad[0].inputs["logprobs"][0] = -1e30
    data = random_data(5, rows=2)
    requests = [
        failing.forward_backward(bad, "ppo"),
        quiet.forward_backward(data),
        failing.optim_step(),
        quiet.optim_step(),
    ]
    trainer.all(requests[1], requests[3])
    trainer.all(alone.forward_backward(data), alone.optim_step())
    assert_same(saved(trainer, quiet, "end"), saved(trainer, alone, "end"))


def test_a_full_object_store_fails_the_save_and_nothing_else(
    valkey_url: str,
    tmp_path: Path,
    tiny_model_folder: Path,
    small_disk: Path,
    start_trainer: Callable[[World], Trainer],
) -> None:
    world = World.create(valkey_url, tmp_path, tiny_model_folder)
    store = ObjectStoreConfig(path=small_disk / "objects")
    world = World(valkey_url, world.config.model_copy(update={"object_store": store}))
    trainer = start_trainer(world)
    client = trained(trainer)
    (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(Failed, match=r"no space left") as caught:
        trainer.result(client.save("a"))
    assert caught.value.category == "server"
    (small_disk / "ballast").unlink()
    trainer.result(client.save("a"))
    trainer.all(client.forward_backward(random_data(1, rows=2)), client.optim_step())


def test_an_object_store_that_is_away_is_waited_for(trainer: Trainer) -> None:
    client, other = trained(trainer), trained(trainer)
    folder = trainer.world.config.object_store.path
    assert folder is not None
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_text("not a folder")
    save = client.save("a")
    for _ in range(5):
        trainer.leader.turn()
    assert trainer.world.store.futures.get(save)[0].status == "pending"
    trainer.result(other.forward_backward(random_data(1, rows=1)))
    folder.unlink()
    away.rename(folder)
    trainer.result(save)


def test_a_trainer_that_lost_its_lease_stops(
    world: World, start_trainer: Callable[[World], Trainer]
) -> None:
    old = start_trainer(world)
    client = trained(old)
    new = start_trainer(world)
    step = client.optim_step()
    with pytest.raises(LeaseLost):
        wait_until(old.leader.turn, 20)
    assert new.result(step)["metrics"]["step"] == 2


def test_a_trainer_that_lost_its_lease_leaves_checkpoints_alone(
    world: World, start_trainer: Callable[[World], Trainer]
) -> None:
    """It stalled before the save, and its successor has gone on since."""
    old = start_trainer(world)
    client = trained(old)
    save = client.save("a")
    take_lease(world.store, f"trainer:{MODEL}")
    with pytest.raises(LeaseLost):
        wait_until(old.leader.turn, 20)
    assert not list(world.objects.list(client.prefix("a")))
    assert world.store.futures.get(save)[0].status == "pending"
