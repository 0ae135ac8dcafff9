"""Trainers as real processes: ranks over gloo, and workers that are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.training.harness import (
    MODEL,
    Client,
    Trainer,
    World,
    logprobs_of,
    random_data,
    trainer_processes,
    wait_result,
)
from tests.service.training.reference import assert_close, assert_same, weights_in
from tests.waiting import wait_until

StartTrainer = Callable[[World], Trainer]
RL = {"logprobs": 1.0, "advantages": 1.0}


def submit(client: Client, steps: int) -> list[str]:
    requests = [client.create()]
    for step in range(steps):
        data = random_data(step, rows=5, spread=RL)
        requests += [
            client.forward_backward(data[:4], "ppo"),
            client.forward_backward(data[4:], "importance_sampling"),  # one row: a rank has none
            client.optim_step(1e-2, grad_clip_norm=0.5, weight_decay=0.1),
        ]
    return requests


def test_two_ranks_equal_one_and_end_together(
    world: World, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    alone, together = world.client(), world.client()
    one = start_trainer(world)
    expected = one.all(*submit(alone, 3), alone.save("end"))
    with trainer_processes(world, tmp_path, ranks=2) as (leader, follower):
        got = [wait_result(world, r) for r in (*submit(together, 3), together.save("end"))]
        follower.kill()
        together.forward_backward(random_data(1, rows=2))
        wait_until(lambda: leader.poll() is not None, 30, "rank 0 ends when rank 1 has died")
        assert leader.returncode == 70
        assert "rank 0 lost another rank" in (tmp_path / "rank0.log").read_text()
    for two, reference in zip(got[1:-1], expected[1:-1], strict=True):
        if isinstance(two, dict):
            norm = reference["metrics"]["grad_norm"]
            assert abs(two["metrics"]["grad_norm"] - norm) <= 1e-5 * norm
        else:
            assert abs(two.metrics["loss:sum"] - reference.metrics["loss:sum"]) < 1e-3
            shapes = [rows.shape for rows in logprobs_of(reference)]
            assert [rows.shape for rows in logprobs_of(two)] == shapes
    assert_close(weights_in(together.files("end")), weights_in(alone.files("end")))


@pytest.mark.slow
def test_a_worker_killed_mid_run_goes_on_with_the_same_bits(
    world: World, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    trainer = world.config.trainer.model_copy(update={"snapshot_every_tokens": 200})
    world = World(world.store_url, world.config.model_copy(update={"trainer": trainer}))
    expected = world.client()
    start_trainer(world).all(*submit(expected, 12), expected.save("end"))

    client = world.client()
    requests = [*submit(client, 12), client.save("end")]
    with trainer_processes(world, tmp_path) as (child,):
        wait_until(lambda: world.store.runs.status(client.run.run_id).cursor >= 10, 60)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    status = world.store.runs.status(client.run.run_id)
    assert 10 <= status.cursor < client.next_seq - 1, "it was too fast for this test"
    assert status.snapshot is not None
    with trainer_processes(world, tmp_path) as (child,):
        for request in requests:
            wait_result(world, request)
        info = world.store.workers.model_info(MODEL)
        child.terminate()
        assert child.wait(5) == 0
    assert info is not None
    assert (info.vocab_size, info.max_model_len, info.attn_modules) == (512, 256, 16)
    assert not (tmp_path / "extensions").exists(), "DeepSpeed compiled something"
    assert_same(client.files("end"), expected.files("end"))
