"""Ranks as real processes over gloo, with the user's DeepSpeed configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.service.training.harness import (
    SPEC,
    Client,
    Datum,
    Failed,
    Trainer,
    World,
    random_data,
    trainer_processes,
    wait_result,
)
from tests.service.training.reference import Reference, assert_close, assert_same, weights_in
from tests.waiting import wait_until
from tuft.checkpoints import Checkpoints
from tuft.contracts.records import LoraSpec
from tuft.modeling.tensor_files import read_safetensors

StartTrainer = Callable[[World], Trainer]
ATTENTION_ONLY = LoraSpec(rank=8, alpha=32, seed=3, train_mlp=False, train_unembed=False)
ZERO_1 = {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True}
ZERO_3 = {"stage": 3, "stage3_param_persistence_threshold": 0}
OFFLOADED = {**ZERO_3, "offload_param": {"device": "cpu"}}
STEPS, MIDDLE = 10, 7
# So large that no weight's step hangs on a gradient of rounding noise: with 1e-8, plain PyTorch's
# float32 and float64 differ by more than the bound after ten steps.
EPS = 1e-3


def with_zero(valkey_url: str, folder: Path, model_folder: Path, zero: dict[str, Any]) -> World:
    trainer = {
        "micro_batch_tokens": 40,
        # Of two runs one is on the ranks' disks, time and again.
        "max_resident_adapters": 1,
        "deepspeed": {"zero_optimization": zero},
    }
    return World.create(valkey_url, folder, model_folder, trainer=trainer)


def data_of(client: Client, step: int) -> list[Datum]:
    """A batch of a few rows, or of one: then other ranks have none."""
    seed = 100 * client.run.lora.rank + step
    return random_data(seed, rows=1 if step % 3 == 0 else 5)


def submit_steps(client: Client, steps: range) -> list[str]:
    requests = []
    for step in steps:
        data = data_of(client, step)
        requests += [
            client.forward_backward(data[:2], forward_only=True),
            client.forward_backward(data),
            client.optim_step(3e-3 / (step + 1), weight_decay=0.1, grad_clip_norm=0.5, eps=EPS),
        ]
    return requests


def submit_all(world: World) -> list[Client]:
    """Two runs of different modules, ten steps each; waits for the last."""
    clients = [world.client(SPEC), world.client(ATTENTION_ONLY)]
    for client in clients:
        for request in (client.create(), client.save("start")):
            wait_result(world, request)
    requests = []
    for client in clients:
        requests += [*submit_steps(client, range(MIDDLE)), client.save("middle")]
        requests += [*submit_steps(client, range(MIDDLE, STEPS)), client.save("end")]
    for request in requests:
        wait_result(world, request)
    return clients


def train_plainly(model_folder: Path, client: Client) -> dict[str, Tensor]:
    """The same steps in plain PyTorch, from the run's checkpoint `start`."""
    reference = Reference(model_folder, client.files("start"))
    for step in range(STEPS):
        reference.backward(reference.cross_entropy(data_of(client, step)))
        reference.step(3e-3 / (step + 1), (0.9, 0.95), EPS, 0.1, 0.5)
    return {name: parameter.detach() for name, parameter in reference.parameters().items()}


def check_plainly(model_folder: Path, client: Client) -> None:
    assert_close(weights_in(client.files("end")), train_plainly(model_folder, client))


def check_going_on_alone(trainer: Trainer, client: Client) -> None:
    """One rank that holds all of the optimizer's state goes on from `middle` to the same `end`."""
    alone = trainer.world.client(client.run.lora)
    prefix = Checkpoints.prefix_of(client.run.run_id, "weights", "middle")
    trainer.result(alone.create_from("tinker://x", prefix))
    trainer.all(*submit_steps(alone, range(MIDDLE, STEPS)), alone.save("end"))
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        got, _ = read_safetensors(alone.files("end")[name])
        expected, metadata = read_safetensors(client.files("end")[name])
        assert_close(got, expected)
    assert metadata["adamw"] == f'{{"step": {STEPS}}}'


@pytest.mark.slow
def test_split_optimizer_state(
    valkey_url: str, tmp_path: Path, tiny_model_folder: Path, start_trainer: StartTrainer
) -> None:
    """Equals plain PyTorch, fits one rank, and is the same after a crash."""
    world = with_zero(valkey_url, tmp_path, tiny_model_folder, ZERO_1)
    with trainer_processes(world, tmp_path, ranks=2) as (leader, follower):
        clients = submit_all(world)
        client = clients[0]
        # A step that can't be: weights, moments and step count stay as they are.
        huge = [Datum([1, 2], np.array([3, 4]), {"weights": np.full(2, 1e30, np.float32)})]
        wait_result(world, client.forward_backward(huge))
        with pytest.raises(Failed, match="the norm of the gradient is"):
            wait_result(world, client.optim_step())
        wait_result(world, client.save("still"))
        client.forward_backward(data_of(client, 7))
        follower.kill()
        wait_until(lambda: leader.poll() is not None, 30, "rank 0 ends when rank 1 has died")
    assert_same(client.files("still"), client.files("end"))
    with trainer_processes(world, tmp_path, ranks=2):
        wait_result(world, client.save("replayed"))
        wait_result(world, client.clear_gradients())
    # Rows of the two runs shared micro-batches then, and don't now.
    assert_close(weights_in(client.files("replayed")), weights_in(client.files("end")))

    trainer = start_trainer(World(valkey_url, world.config))
    for each in clients:
        check_plainly(tiny_model_folder, each)
    check_going_on_alone(trainer, client)


@pytest.mark.slow
def test_partitioned_base_on_two_machines(
    valkey_url: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    world = with_zero(valkey_url, tmp_path, tiny_model_folder, ZERO_3)
    with trainer_processes(world, tmp_path, ranks=2, nodes=2) as (leader, follower):
        clients = submit_all(world)
        follower.kill()
        # Computing is a collective here: nobody may wait for the dead.
        clients[0].forward_backward(data_of(clients[0], 0))
        wait_until(lambda: leader.poll() is not None, 30, "rank 0 ends when rank 1 has died")
    for client in clients:
        check_plainly(tiny_model_folder, client)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("zero", [{}, ZERO_1, OFFLOADED], ids=["zero0", "zero1", "offloaded"])
def test_four_ranks(
    valkey_url: str, tmp_path: Path, tiny_tied_llama_folder: Path, zero: dict[str, Any]
) -> None:
    world = with_zero(valkey_url, tmp_path, tiny_tied_llama_folder, zero)
    with trainer_processes(world, tmp_path, ranks=4, nodes=2):
        clients = submit_all(world)
    for client in clients:
        check_plainly(tiny_tied_llama_folder, client)


@pytest.mark.slow
def test_a_partitioned_bfloat16_base(
    valkey_url: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Adapters are float32 and go where those of a float32 base go, about."""
    world = with_zero(valkey_url, tmp_path, tiny_model_folder, ZERO_3)
    (entry,) = world.config.supported_models
    models = [entry.model_copy(update={"dtype": "bfloat16"})]
    world = World(valkey_url, world.config.model_copy(update={"supported_models": models}))
    with trainer_processes(world, tmp_path, ranks=2):
        clients = submit_all(world)
    for client in clients:
        end = weights_in(client.files("end"))
        assert {tensor.dtype for tensor in end.values()} == {torch.float32}
        start, expected = (
            weights_in(client.files("start")),
            train_plainly(tiny_model_folder, client),
        )
        for name, tensor in start.items():
            way, right = (end[name] - tensor).flatten(), (expected[name] - tensor).flatten()
            assert torch.cosine_similarity(way, right, dim=0) > 0.9, name


@pytest.mark.slow
@pytest.mark.parametrize("zero", [{"stage": 0}, ZERO_1], ids=["zero0", "zero1"])
def test_what_two_ranks_accumulated_comes_back_from_a_snapshot(
    valkey_url: str, tmp_path: Path, tiny_model_folder: Path, zero: dict[str, Any]
) -> None:
    """Each rank has gradients of its own rows; both are killed before the optim_step."""
    trainer = {
        "micro_batch_tokens": 40,
        "snapshot_every_tokens": 1,
        "deepspeed": {"zero_optimization": zero},
    }
    world = World.create(valkey_url, tmp_path, tiny_model_folder, trainer=trainer)
    client = world.client()
    run_id = client.run.run_id
    with trainer_processes(world, tmp_path, ranks=2):
        wait_result(world, client.create())
        wait_result(world, client.save("start"))
        for request in submit_steps(client, range(2)):
            wait_result(world, request)
        last = client.next_seq
        wait_result(world, client.forward_backward(data_of(client, 2)))

        def is_saved() -> bool:
            # One that was being written when the rows were done is of a moment before.
            wait_result(world, client.forward_backward([]))
            snapshot = world.store.runs.status(run_id).snapshot
            return snapshot is not None and snapshot.seq_id >= last and snapshot.accumulated

        wait_until(is_saved, 30)
    with trainer_processes(world, tmp_path, ranks=2):
        request = client.optim_step(3e-3 / 3, weight_decay=0.1, grad_clip_norm=0.5, eps=EPS)
        wait_result(world, request)
        wait_result(world, client.save("end"))
    reference = Reference(tiny_model_folder, client.files("start"))
    for step in range(3):
        reference.backward(reference.cross_entropy(data_of(client, step)))
        reference.step(3e-3 / (step + 1), (0.9, 0.95), EPS, 0.1, 0.5)
    expected = {name: each.detach() for name, each in reference.parameters().items()}
    assert_close(weights_in(client.files("end")), expected)
