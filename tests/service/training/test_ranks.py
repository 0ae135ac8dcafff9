"""Ranks as real processes over gloo, with the user's DeepSpeed configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
ATTENTION_ONLY = LoraSpec(rank=2, alpha=32, seed=3, train_mlp=False, train_unembed=False)
ZERO_1 = {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True}
ZERO_3 = {"stage": 3, "stage3_param_persistence_threshold": 0}
OFFLOADED = {**ZERO_3, "offload_param": {"device": "cpu"}}
STEPS = 10


def with_zero(valkey_url: str, folder: Path, model_folder: Path, zero: dict[str, Any]) -> World:
    trainer = {"micro_batch_tokens": 40, "deepspeed": {"zero_optimization": zero}}
    return World.create(valkey_url, folder, model_folder, trainer=trainer)


def data_of(client: Client, step: int) -> list[Datum]:
    """A batch of a few rows, or of one: then other ranks have none."""
    seed = 100 * client.run.lora.rank + step
    return random_data(seed, rows=1 if step % 3 == 0 else 5, spread={"weights": 1.0})


def submit_steps(client: Client, steps: range) -> list[str]:
    requests = []
    for step in steps:
        data = data_of(client, step)
        requests += [
            client.forward_backward(data[:3], forward_only=True),
            client.forward_backward(data),
            client.optim_step(1e-2 / (step + 1), weight_decay=0.1, grad_clip_norm=0.5, eps=1e-8),
        ]
    return requests


def train_plainly(model_folder: Path, client: Client) -> Reference:
    """The same steps in plain PyTorch, from the run's checkpoint `start`."""
    reference = Reference(model_folder, client.files("start"))
    for step in range(STEPS):
        reference.backward(reference.cross_entropy(data_of(client, step)))
        reference.step(1e-2 / (step + 1), (0.9, 0.95), 1e-8, 0.1, 0.5)
    return reference


def check_ranks(world: World, folder: Path, model_folder: Path, *, ranks: int, nodes: int) -> None:
    """Two runs of different modules at once equal each alone in plain PyTorch."""
    clients = [world.client(SPEC), world.client(ATTENTION_ONLY)]
    with trainer_processes(world, folder, ranks, nodes):
        for client in clients:
            for request in (client.create(), client.save("start")):
                wait_result(world, request)
        requests = [submit_steps(client, range(STEPS)) for client in clients]
        ends = [client.save("end") for client in clients]
        for request in (*requests[0], *requests[1], *ends):
            wait_result(world, request)
    for client in clients:
        reference = train_plainly(model_folder, client)
        assert_close(weights_in(client.files("end")), reference.parameters())


@pytest.mark.parametrize("zero", [ZERO_1, ZERO_3], ids=["zero1", "zero3"])
def test_two_ranks_equal_plain_pytorch(
    valkey_url: str, tmp_path: Path, tiny_model_folder: Path, zero: dict[str, Any]
) -> None:
    world = with_zero(valkey_url, tmp_path, tiny_model_folder, zero)
    check_ranks(world, tmp_path, tiny_model_folder, ranks=2, nodes=2)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [{}, ZERO_1, OFFLOADED], ids=["zero0", "zero1", "offloaded"])
def test_four_ranks_equal_plain_pytorch(
    valkey_url: str, tmp_path: Path, tiny_tied_llama_folder: Path, zero: dict[str, Any]
) -> None:
    world = with_zero(valkey_url, tmp_path, tiny_tied_llama_folder, zero)
    check_ranks(world, tmp_path, tiny_tied_llama_folder, ranks=4, nodes=2)


def test_a_checkpoint_of_split_state_goes_on_with_one_rank_and_the_same_after_a_crash(
    valkey_url: str, tmp_path: Path, tiny_model_folder: Path, start_trainer: StartTrainer
) -> None:
    world = with_zero(valkey_url, tmp_path, tiny_model_folder, ZERO_1)
    client = world.client()
    with trainer_processes(world, tmp_path, ranks=2) as (leader, follower):
        requests = [client.create(), *submit_steps(client, range(4)), client.save("middle")]
        requests += [*submit_steps(client, range(4, 6)), client.save("end")]
        for request in requests:
            wait_result(world, request)
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
    assert_same(client.files("replayed"), client.files("end"))

    alone = world.client()
    prefix = Checkpoints.prefix_of(client.run.run_id, "weights", "middle")
    trainer = start_trainer(World(valkey_url, world.config))
    trainer.result(alone.create_from("tinker://x", prefix))
    trainer.all(*submit_steps(alone, range(4, 6)), alone.save("end"))
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        got, _ = read_safetensors(alone.files("end")[name])
        expected, metadata = read_safetensors(client.files("end")[name])
        assert_close(got, expected)
        assert "adamw" not in metadata or metadata["adamw"] == '{"step": 6}'
