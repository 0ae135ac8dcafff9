"""Tenants in one batch get what they would get alone, whatever is mixed with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from tests.service.training.harness import (
    Client,
    Datum,
    Trainer,
    World,
    logprobs_of,
    random_data,
    row_group,
    trainer_processes,
    wait_result,
)
from tests.service.training.plain import ADAM, PlainBase, PlainRun
from tests.service.training.reference import assert_close, weights_in
from tuft.contracts.records import LoraSpec
from tuft.modeling.adapters import new_adapter
from tuft.modeling.lora import Adapter
from tuft.training.forward import Forward

StartTrainer = Callable[[World], Trainer]
RL = {"logprobs": 1.0, "advantages": 1.0}
SPREADS = {
    "cross_entropy": {"weights": 1.0},
    "importance_sampling": RL,
    "ppo": RL,
    "cispo": RL,
    "dro": RL,
}
SPECS = [
    LoraSpec(rank=4, alpha=32, seed=1),
    LoraSpec(rank=1, alpha=8, seed=2, train_unembed=False),
    LoraSpec(rank=9, alpha=32, seed=3, train_mlp=False),
    LoraSpec(rank=4, alpha=16, seed=4, train_attn=False, train_unembed=False),
    LoraSpec(rank=2, alpha=4, seed=5, train_attn=False, train_mlp=False),
]


@dataclass(frozen=True)
class Batch:
    """A forward_backward or forward of some run."""

    loss_fn: str
    seed: int
    rows: int
    longest: int
    forward_only: bool

    def data(self) -> list[Datum]:
        return random_data(self.seed, self.rows, longest=self.longest, spread=SPREADS[self.loss_fn])


@dataclass(frozen=True)
class Optim:
    learning_rate: float


Event = Batch | Optim
batches = st.builds(
    Batch,
    loss_fn=st.sampled_from(sorted(SPREADS)),
    seed=st.integers(0, 1000),
    rows=st.integers(1, 5),
    longest=st.sampled_from([3, 8, 24, 40]),
    forward_only=st.booleans(),
)
events = st.lists(batches | st.builds(Optim, st.sampled_from([1e-3, 1e-2])), max_size=6)


@pytest.fixture(scope="session")
def plain(tiny_model_folder: Path, base_model: Any) -> PlainBase:
    return PlainBase(tiny_model_folder, base_model)


def submit(client: Client, event: Event) -> str:
    if isinstance(event, Optim):
        return client.optim_step(event.learning_rate, **ADAM)
    return client.forward_backward(event.data(), event.loss_fn, forward_only=event.forward_only)


def check_result(run: PlainRun, event: Event, output: Any) -> None:
    """Do the event plainly, too; the logprobs must be the same."""
    if isinstance(event, Optim):
        run.optim_step(event.learning_rate)
        return
    expected = run.forward_backward(event.data(), event.loss_fn, forward_only=event.forward_only)
    for got, lp in zip(logprobs_of(output), expected, strict=True):
        np.testing.assert_allclose(got, lp.numpy(), rtol=1e-4, atol=1e-4)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    tenants=st.lists(st.tuples(st.sampled_from(SPECS), events), min_size=2, max_size=4),
    budget=st.sampled_from([30, 100, 1000]),
)
def test_any_mix_of_operations_equals_plain_training(
    tenants: list[tuple[LoraSpec, list[Event]]],
    budget: int,
    valkey_url: str,
    tmp_path: Path,
    tiny_model_folder: Path,
    start_trainer: StartTrainer,
    plain: PlainBase,
) -> None:
    world = World.create(
        valkey_url, tmp_path, tiny_model_folder, trainer={"micro_batch_tokens": budget}
    )
    clients = [world.client(spec) for spec, _ in tenants]
    trainer = start_trainer(world)
    trainer.all(*(client.create() for client in clients))
    requests = [
        [submit(client, event) for event in done]
        for client, (_, done) in zip(clients, tenants, strict=True)
    ]
    ends = [client.save("end") for client in clients]
    for client, (spec, done), mine, end in zip(clients, tenants, requests, ends, strict=True):
        run = plain.run(spec)
        for event, output in zip(done, trainer.all(*mine), strict=True):
            check_result(run, event, output)
        trainer.result(end)
        assert_close(weights_in(client.files("end")), run.weights)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_ten_steps_of_five_tenants_on_several_ranks_equal_plain_training(
    ranks: int, valkey_url: str, tmp_path: Path, tiny_model_folder: Path, plain: PlainBase
) -> None:
    world = World.create(
        valkey_url, tmp_path, tiny_model_folder, trainer={"micro_batch_tokens": 100}
    )
    losses = sorted(SPREADS)
    clients = [world.client(spec) for spec in SPECS]
    steps: list[list[Event]] = []
    for number in range(len(SPECS)):
        steps.append([])
        for step in range(10):
            batch = Batch(losses[(number + step) % 5], 10 * number + step, 4, 24, False)
            steps[-1] += [batch, Optim(1e-3)]
    # Submitted before the trainer comes: every micro-batch then holds rows of several tenants.
    for client in clients:
        client.create()
    requests = [
        [submit(client, e) for e in mine] for client, mine in zip(clients, steps, strict=True)
    ]
    ends = [client.save("end") for client in clients]
    with trainer_processes(world, tmp_path, ranks):
        for client, spec, mine, done, end in zip(
            clients, SPECS, requests, steps, ends, strict=True
        ):
            run = plain.run(spec)
            for event, request in zip(done, mine, strict=True):
                check_result(run, event, wait_result(world, request))
            wait_result(world, end)
            assert_close(weights_in(client.files("end")), run.weights)


def adapter_of(base_model: Any, spec: LoraSpec) -> Adapter:
    """With a B that is not zero."""
    layers = new_adapter(base_model, spec).layers()
    return Adapter(
        spec, {name: (each.a, torch.full_like(each.b, 0.02)) for name, each in layers.items()}
    )


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("weights", float("nan")),
        ("weights", float("inf")),
        ("inputs", float("nan")),
        ("inputs", -float("inf")),
    ],
)
def test_a_tenant_that_is_not_finite_changes_no_bit_of_the_others(
    base_model: Any, where: str, what: float
) -> None:
    forward = Forward(base_model)
    good, bad = (adapter_of(base_model, spec) for spec in (SPECS[0], SPECS[2]))
    mine = random_data(1, rows=3, spread=RL)
    theirs = random_data(2, rows=2, spread=RL)
    adapters = {"good": good, "bad": bad}
    micro_batch = [row_group("bad", theirs, "ppo"), row_group("good", mine, "ppo")]
    expected = forward.compute(adapters, micro_batch)[2:]
    assert good.flat.grad is not None
    gradient = good.flat.grad.clone()
    good.forget_gradient()
    bad.forget_gradient()

    if where == "weights":
        bad.flat.data[:] = what
    else:
        theirs[0].inputs["logprobs"][:] = what
    results = forward.compute(adapters, micro_batch)
    assert not all(np.isfinite(result.loss) for result in results[:2])
    assert torch.equal(good.flat.grad, gradient)
    assert bad.flat.grad is not None
    assert not bad.flat.grad.any()
    for got, wanted in zip(results[2:], expected, strict=True):
        assert got.loss == wanted.loss
        assert np.array_equal(got.logprobs, wanted.logprobs)


def test_rows_of_one_tenant_give_another_exactly_no_gradient(base_model: Any) -> None:
    forward = Forward(base_model)
    one, two = (adapter_of(base_model, spec) for spec in (SPECS[0], SPECS[2]))
    # A weight of 0 everywhere: its rows are computed, and have no gradient of their own.
    silent = [
        Datum(d.tokens, d.targets, {"weights": np.zeros(len(d.tokens), dtype=np.float32)})
        for d in random_data(2, rows=2)
    ]
    forward.compute(
        {"one": one, "two": two},
        [row_group("one", random_data(1, rows=3)), row_group("two", silent)],
    )
    assert one.flat.grad is not None
    assert one.flat.grad.any()
    assert two.flat.grad is not None
    assert not two.flat.grad.any()


def test_activations_computed_again_give_the_same_gradient(
    base_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (adapter_of(base_model, spec) for spec in (SPECS[0], SPECS[3]))
    adapters = {"one": one, "two": two}
    micro_batch = [
        row_group("one", random_data(1, rows=3)),
        row_group("two", random_data(2, rows=2)),
    ]
    kept = Forward(base_model)
    expected = kept.compute(adapters, micro_batch)
    gradients = [each.flat.grad.clone() for each in (one, two) if each.flat.grad is not None]
    for each in (one, two):
        each.forget_gradient()
    again = Forward(base_model, activation_bytes=0)
    checkpoints = Mock(wraps=checkpoint)
    monkeypatch.setattr("tuft.training.forward.checkpoint", checkpoints)
    results = again.compute(adapters, micro_batch)
    assert checkpoints.call_count == base_model.config.num_hidden_layers
    assert [result.loss for result in results] == [result.loss for result in expected]
    for each, gradient in zip((one, two), gradients, strict=True):
        assert each.flat.grad is not None
        assert torch.equal(each.flat.grad, gradient)
