"""Runs of several tenants at the same time: what they share, and what they must not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.service.training.harness import (
    MODEL,
    SPEC,
    Client,
    Failed,
    Trainer,
    World,
    logprobs_of,
    random_data,
    trainer_processes,
    wait_result,
)
from tests.service.training.reference import assert_close, weights_in
from tuft.contracts.records import LoraSpec
from tuft.training import commands
from tuft.training.group import RankGroup

StartTrainer = Callable[[World], Trainer]
RL = {"logprobs": 1.0, "advantages": 1.0}


class Computed(list[list[set[str]]]):
    """Of each Compute, the runs of each rank's micro-batch; `look` is called before it."""

    look: Callable[[], None] | None = None


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    found = Computed()
    call = RankGroup.call

    def noting(group: RankGroup, command: commands.Command) -> list[object]:
        if isinstance(command, commands.Compute):
            if found.look is not None:
                found.look()
            ranks = [batch or [] for batch in command.micro_batches]
            found.append([{rows.run_id for rows in rank} for rank in ranks])
        return call(group, command)

    monkeypatch.setattr(RankGroup, "call", noting)
    return found


def with_trainer(world: World, **settings: int) -> World:
    trainer = world.config.trainer.model_copy(update=settings)
    return World(world.store_url, world.config.model_copy(update={"trainer": trainer}))


def created(trainer: Trainer, tenant: str = "tenant-a", spec: LoraSpec = SPEC) -> Client:
    client = trainer.world.client(spec, tenant=tenant)
    trainer.result(client.create())
    return client


def saved(trainer: Trainer, client: Client) -> dict[str, bytes]:
    trainer.result(client.save("end"))
    return client.files("end")


def assert_same_training(trainer: Trainer, client: Client, alone: Client) -> None:
    got, expected = saved(trainer, client), saved(trainer, alone)
    assert_close(weights_in(got), weights_in(expected))


SPECS = [
    LoraSpec(rank=4, alpha=32, seed=7),
    LoraSpec(rank=8, alpha=32, seed=8, train_mlp=False),
    LoraSpec(rank=1, alpha=32, seed=9, train_unembed=False),
    LoraSpec(rank=3, alpha=32, seed=10, train_attn=False),
]
LOSSES = ["cross_entropy", "importance_sampling", "ppo", "dro"]


def test_one_micro_batch_of_four_tenants_and_losses_equals_each_alone(
    trainer: Trainer, computed: Computed
) -> None:
    clients = [created(trainer, f"t{n}", spec) for n, spec in enumerate(SPECS)]
    together = []
    for step in range(3):
        requests = []
        for number, (client, loss) in enumerate(zip(clients, LOSSES, strict=True)):
            data = random_data(10 * step + number, rows=number + 1, spread=RL)
            if loss == "cross_entropy":
                data = random_data(10 * step, rows=2)
            forward_only = step == 1 and number == 3
            requests.append(client.forward_backward(data, loss, forward_only=forward_only))
            client.optim_step(3e-3)
        together.append(trainer.all(*requests))
        trainer.all(*(f"{c.run.run_id}:{c.next_seq - 1}" for c in clients))
    everyone = {client.run.run_id for client in clients}
    assert computed == [[everyone]] * 3
    for number, (client, loss) in enumerate(zip(clients, LOSSES, strict=True)):
        alone = created(trainer, "alone", SPECS[number])
        for step in range(3):
            data = random_data(10 * step + number, rows=number + 1, spread=RL)
            if loss == "cross_entropy":
                data = random_data(10 * step, rows=2)
            forward_only = step == 1 and number == 3
            output = trainer.result(alone.forward_backward(data, loss, forward_only=forward_only))
            trainer.result(alone.optim_step(3e-3))
            for got, expected in zip(
                logprobs_of(together[step][number]), logprobs_of(output), strict=True
            ):
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        assert_same_training(trainer, client, alone)


def test_a_light_tenants_operation_is_done_within_one_micro_batch_of_a_heavy_one(
    world: World, start_trainer: StartTrainer, computed: Computed
) -> None:
    trainer = start_trainer(with_trainer(world, micro_batch_tokens=32))
    heavy = [created(trainer, "heavy") for _ in range(2)]
    light = created(trainer, "light")
    slow = [client.forward_backward(random_data(1, rows=40)) for client in heavy]

    def look(request: str, done: list[bool]) -> None:
        done.append(world.store.futures.get(request)[0].status == "done")

    for step in range(5):
        trainer.leader.turn()
        computed.clear()
        request = light.forward_backward(random_data(step, rows=1))
        done: list[bool] = []
        computed.look = partial(look, request, done)
        trainer.leader.turn()
        trainer.leader.turn()
        computed.look = None
        assert light.run.run_id in computed[0][0]
        assert done == [False, True], "its result is there before the next micro-batch begins"
    assert all(world.store.futures.get(request)[0].status == "pending" for request in slow)
    trainer.all(*slow)


def test_an_operation_is_done_as_soon_as_its_own_rows_are(
    world: World, start_trainer: StartTrainer
) -> None:
    trainer = start_trainer(with_trainer(world, micro_batch_tokens=64))
    clients = [created(trainer) for _ in range(3)]
    sizes = [30, 3, 12]
    requests = [
        client.forward_backward(random_data(size, rows=size), forward_only=size == 12)
        for client, size in zip(clients, sizes, strict=True)
    ]
    order: list[int] = []
    while len(order) < 3:
        trainer.leader.turn()
        for size, request in zip(sizes, requests, strict=True):
            if size not in order and world.store.futures.get(request)[0].status == "done":
                order.append(size)
    assert order == [3, 12, 30]


def test_an_operation_that_fails_among_others_fails_alone(
    trainer: Trainer, computed: Computed
) -> None:
    good, bad, forward = (created(trainer, tenant) for tenant in "abc")
    first, second = random_data(1, rows=2), random_data(2, rows=3)
    trainer.result(good.forward_backward(first))
    broken = random_data(3, rows=1)
    broken[0] = type(broken[0])([5000] * 3, broken[0].targets[:3])  # beyond the vocabulary
    computed.clear()
    requests = [
        good.forward_backward(second),
        bad.forward_backward(broken),
        forward.forward_backward(second, forward_only=True),
    ]
    outputs = [trainer.result(requests[0]), trainer.result(requests[2])]
    with pytest.raises(Failed, match="internal error in the trainer: rank 0: IndexError"):
        trainer.result(requests[1])
    assert len(computed[0][0]) == 3
    assert all(len(runs) == 1 for (runs,) in computed[1:])
    for output in outputs:
        assert np.isfinite(output.metrics["loss:sum"])
    alone = created(trainer)
    trainer.all(alone.forward_backward(first), alone.forward_backward(second), alone.optim_step())
    trainer.result(good.optim_step())
    assert_same_training(trainer, good, alone)
    with pytest.raises(Failed, match="was not applied"):
        trainer.result(bad.optim_step())
    # The three go on together.
    computed.clear()
    trainer.all(*(client.forward_backward(first) for client in (good, bad, forward)))
    assert [len(runs) for (runs,) in computed] == [3]


@pytest.mark.slow
def test_what_another_rank_had_added_is_not_added_twice(
    world: World, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    """The bad row is on rank 0; rank 1 has computed its own rows, with their gradients."""
    good, bad = world.client(tenant="a"), world.client(tenant="b")
    data = random_data(2, rows=2, longest=40)
    broken = random_data(3, rows=1)
    broken[0] = type(broken[0])([5000] * 3, broken[0].targets[:3])
    requests = [client.create() for client in (good, bad)]
    requests += [good.forward_backward(data), good.optim_step(), good.save("end")]
    failing = bad.forward_backward(broken)
    with trainer_processes(world, tmp_path, ranks=2):
        for request in requests:
            wait_result(world, request)
        with pytest.raises(Failed, match="internal error"):
            wait_result(world, failing)
    assert "a micro-batch of 2 runs failed" in (tmp_path / "rank0.log").read_text()
    trainer = start_trainer(world)
    alone = created(trainer)
    trainer.all(alone.forward_backward(data), alone.optim_step())
    assert_close(weights_in(good.files("end")), weights_in(saved(trainer, alone)))


def test_rows_that_are_not_finite_are_tried_alone_and_harm_nobody(
    trainer: Trainer, computed: Computed
) -> None:
    good, bad = created(trainer, "a"), created(trainer, "b")
    data, rows = random_data(1, rows=2), random_data(2, rows=2, spread=RL)
    rows[1].inputs["logprobs"][0] = -1e30
    trainer.result(good.forward_backward(data))
    requests = [good.forward_backward(data), bad.forward_backward(rows, "ppo")]
    trainer.all(requests[0], good.optim_step())
    with pytest.raises(Failed, match=r"the loss of data\[1\] is"):
        trainer.result(requests[1])
    assert computed[1:] == [[{good.run.run_id, bad.run.run_id}], [{bad.run.run_id}]]
    alone = created(trainer)
    trainer.all(alone.forward_backward(data), alone.forward_backward(data), alone.optim_step())
    assert_same_training(trainer, good, alone)


def test_a_run_that_is_replayed_does_not_hold_up_others(
    world: World, start_trainer: StartTrainer, computed: Computed
) -> None:
    world = with_trainer(world, micro_batch_tokens=32)
    trainer = start_trainer(world)
    long, quick = created(trainer, "a"), created(trainer, "b")
    trainer.all(*(long.forward_backward(random_data(n, rows=10)) for n in range(4)))
    trainer = start_trainer(world)
    computed.clear()
    step = long.optim_step()
    trainer.leader.turn()
    trainer.result(quick.forward_backward(random_data(1, rows=1)))
    assert world.store.futures.get(step)[0].status == "pending"
    assert len(computed) <= 4
    trainer.result(step)
    together = sum(len(runs) == 2 for (runs,) in computed)
    assert together == 1


def test_clients_of_runs_that_wait_for_a_slot_are_told(
    world: World, start_trainer: StartTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuft.training.leader._LEASE_CHECK_S", 0.0)
    trainer = start_trainer(with_trainer(world, max_resident_adapters=1, micro_batch_tokens=16))
    busy, waiting = created(trainer), created(trainer)
    slow = busy.forward_backward(random_data(1, rows=8))
    trainer.leader.turn()
    quick = waiting.forward_backward(random_data(1, rows=1))
    trainer.leader.turn()
    reason = world.store.queues.reason(MODEL, waiting.run.run_id)
    assert reason is not None
    assert "1 training runs of test/tiny are under way" in reason
    assert world.store.queues.reason(MODEL, busy.run.run_id) is None
    trainer.all(slow, quick)
    trainer.leader.turn()
    assert world.store.queues.reason(MODEL, waiting.run.run_id) is None


def test_runs_with_endless_work_take_turns_for_slots(
    world: World, start_trainer: StartTrainer, computed: Computed
) -> None:
    trainer = start_trainer(with_trainer(world, max_resident_adapters=2, micro_batch_tokens=32))
    clients = [created(trainer, tenant) for tenant in ("a", "a", "a", "b")]
    computed.clear()
    requests = []
    for step in range(12):
        for client in clients:
            requests.append(client.forward_backward(random_data(step, rows=2)))
            client.optim_step(3e-3)
    trainer.all(*requests)
    turns = [client.run.run_id for client in clients]
    runs = [run for (rank,) in computed for run in sorted(rank)]
    # Nobody finished before everyone had begun, and tenant b had its turn from the start.
    assert turns[3] in runs[:2]
    firsts = [runs.index(run) for run in turns]
    lasts = [len(runs) - runs[::-1].index(run) for run in turns]
    assert max(firsts) < min(lasts)
    expected = created(trainer)
    for step in range(12):
        trainer.result(expected.forward_backward(random_data(step, rows=2)))
        trainer.result(expected.optim_step(3e-3))
    weights = weights_in(saved(trainer, expected))
    for client in clients:
        assert_close(weights_in(saved(trainer, client)), weights)
