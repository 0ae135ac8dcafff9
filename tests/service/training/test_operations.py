"""What operations do, against plain PyTorch and PEFT in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.service.training.harness import (
    SPEC,
    Client,
    Failed,
    Trainer,
    World,
    logprobs_of,
    random_data,
)
from tests.service.training.reference import Reference, assert_close, assert_same, weights_in
from tuft.checkpoints import Checkpoints
from tuft.contracts.records import LoraSpec
from tuft.modeling.adapters import adapter_files, new_adapter

RL = {"logprobs": 1.0, "advantages": 1.0}
DECAYING = {"weight_decay": 0.1, "grad_clip_norm": 0.5, "beta1": 0.8, "beta2": 0.99, "eps": 1e-8}


def created(trainer: Trainer, spec: LoraSpec = SPEC) -> Client:
    client = trainer.world.client(spec)
    assert trainer.result(client.create()) == {
        "model_id": client.run.run_id,
        "type": "create_model",
    }
    return client


def saved(trainer: Trainer, client: Client, name: str) -> dict[str, bytes]:
    path = trainer.result(client.save(name))["path"]
    assert path == f"tinker://{client.run.run_id}/weights/{name}"
    return client.files(name)


def test_ten_adamw_steps_with_clipping_and_weight_decay_equal_torch(
    trainer: Trainer, tiny_model_folder: Path
) -> None:
    client = created(trainer)
    reference = Reference(tiny_model_folder, saved(trainer, client, "start"))
    for step in range(10):
        data = random_data(step, rows=4, spread={"weights": 1.0})
        learning_rate = 1e-2 / (step + 1)
        output, optim = trainer.all(
            client.forward_backward(data), client.optim_step(learning_rate, **DECAYING)
        )
        loss = reference.cross_entropy(data)
        reference.backward(loss)
        norm = reference.step(learning_rate, (0.8, 0.99), 1e-8, 0.1, 0.5)
        assert output.metrics["loss:sum"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert optim["metrics"] == pytest.approx({"grad_norm": norm, "step": step + 1}, rel=1e-4)
        assert norm > 0.5
    assert_close(weights_in(saved(trainer, client, "end")), reference.parameters())


def test_many_forward_backwards_equal_one_big_batch(trainer: Trainer) -> None:
    data = random_data(1, rows=6)
    one, many = created(trainer), created(trainer)
    trainer.all(one.forward_backward(data), one.optim_step())
    for row in data:
        trainer.result(many.forward_backward([row]))
    trainer.result(many.optim_step())
    assert_close(weights_in(saved(trainer, many, "end")), weights_in(saved(trainer, one, "end")))


def test_small_micro_batches_equal_large_ones(
    world: World, start_trainer: Callable[[World], Trainer], tmp_path: Path
) -> None:
    data = random_data(1, rows=9, spread=RL)
    ends, outputs = [], []
    for budget in (1, 100_000):
        trainer = start_trainer(with_trainer(world, micro_batch_tokens=budget))
        client = created(trainer)
        output, _ = trainer.all(
            client.forward_backward(data, "ppo"), client.optim_step(grad_clip_norm=1.0)
        )
        outputs.append(output)
        ends.append(weights_in(saved(trainer, client, "end")))
    assert_close(ends[0], ends[1])
    lengths = [len(datum.tokens) for datum in data]
    for output in outputs:
        assert [len(row) for row in logprobs_of(output)] == lengths
    for small, large in zip(*map(logprobs_of, outputs), strict=True):
        np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-5)


def with_trainer(world: World, **settings: int) -> World:
    trainer = world.config.trainer.model_copy(update=settings)
    return World(world.store_url, world.config.model_copy(update={"trainer": trainer}))


def test_interleaved_runs_equal_each_alone(
    world: World, start_trainer: Callable[[World], Trainer]
) -> None:
    trainer = start_trainer(with_trainer(world, micro_batch_tokens=40))
    other = LoraSpec(rank=8, alpha=32, seed=9, train_unembed=False)
    together = [world.client(), world.client(other)]
    requests = [client.create() for client in together]
    for step in range(3):
        for number, client in enumerate(together):
            requests.append(client.forward_backward(random_data(10 * number + step, rows=5)))
        requests += [client.optim_step(3e-3) for client in together]
    requests += [client.save("end") for client in together]
    trainer.all(*requests)
    for number, spec in enumerate((SPEC, other)):
        alone = created(trainer, spec)
        for step in range(3):
            trainer.result(alone.forward_backward(random_data(10 * number + step, rows=5)))
            trainer.result(alone.optim_step(3e-3))
        # Rows of both were computed together: the same up to the order of sums.
        got, expected = together[number].files("end"), saved(trainer, alone, "end")
        assert_close(weights_in(got), weights_in(expected))


def test_a_long_operation_does_not_hold_up_a_short_one(
    world: World, start_trainer: Callable[[World], Trainer]
) -> None:
    trainer = start_trainer(with_trainer(world, micro_batch_tokens=1))
    long, short = created(trainer), created(trainer)
    slow = long.forward_backward(random_data(1, rows=30))
    trainer.result(short.forward_backward(random_data(2, rows=2)))
    assert world.store.futures.get(slow)[0].status == "pending"
    trainer.result(slow)


def test_forward_only_computes_and_changes_nothing(trainer: Trainer) -> None:
    client = created(trainer)
    data = random_data(1, rows=3, spread=RL)
    trainer.all(client.forward_backward(data, "ppo"), client.optim_step())
    before = saved(trainer, client, "before")
    forward = trainer.result(client.forward_backward(data, "ppo", forward_only=True))
    future, _ = trainer.world.store.futures.get(f"{client.run.run_id}:{client.next_seq - 1}")
    assert future.result_type == "Forward"
    assert_same(saved(trainer, client, "after"), before)
    backward = trainer.result(client.forward_backward(data, "ppo"))
    assert forward.metrics["loss:sum"] == backward.metrics["loss:sum"]
    for one, two in zip(logprobs_of(forward), logprobs_of(backward), strict=True):
        assert np.array_equal(one, two)


def test_an_optim_step_without_gradients_steps_with_zero(
    trainer: Trainer, tiny_model_folder: Path
) -> None:
    client = created(trainer)
    reference = Reference(tiny_model_folder, saved(trainer, client, "start"))
    data = random_data(1, rows=2)
    trainer.all(client.forward_backward(data), client.optim_step(1e-2), client.optim_step(1e-2))
    reference.backward(reference.cross_entropy(data))
    reference.step(1e-2, (0.9, 0.95), 1e-12, 0.0, 0.0)
    for parameter in reference.parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    reference.step(1e-2, (0.9, 0.95), 1e-12, 0.0, 0.0)
    assert_close(weights_in(saved(trainer, client, "end")), reference.parameters())


def test_a_new_run_begins_with_the_adapter_of_its_seed_and_modules(
    trainer: Trainer, base_model: torch.nn.Module
) -> None:
    spec = LoraSpec(rank=3, alpha=16, seed=11, train_mlp=False)
    files = saved(trainer, created(trainer, spec), "start")
    expected = adapter_files(new_adapter(base_model, spec), "test/tiny")
    assert_same({name: files[name] for name in expected}, expected)
    assert not any("mlp" in name for name in weights_in(files))


@pytest.mark.parametrize("inline", [0, 10_000_000])
def test_large_payloads_and_results_go_through_the_object_store(
    world: World, start_trainer: Callable[[World], Trainer], inline: int
) -> None:
    limits = world.config.limits.model_copy(update={"inline_payload_bytes": inline})
    world = World(world.store_url, world.config.model_copy(update={"limits": limits}))
    trainer = start_trainer(world)
    client = created(trainer)
    data = random_data(1, rows=3)
    request = client.forward_backward(data, as_object=inline == 0)
    assert len(logprobs_of(trainer.result(request))) == 3
    future, body = world.store.futures.get(request)
    assert (future.body_object, body is None) == (
        (f"results/{request}", True) if inline == 0 else (None, False)
    )


def test_save_load_same_next_step(trainer: Trainer) -> None:
    client = created(trainer)
    trainer.all(client.forward_backward(random_data(1, rows=3)), client.optim_step(1e-2))
    path = trainer.result(client.save("middle"))["path"]
    next_data = random_data(2, rows=3)

    def next_step(run: Client, name: str) -> dict[str, bytes]:
        trainer.all(run.forward_backward(next_data), run.optim_step(1e-2))
        return saved(trainer, run, name)

    straight = next_step(client, "straight")
    reply = trainer.result(client.load(path, client.prefix("middle")))
    assert reply == {"path": path, "model_id": client.run.run_id, "type": "load_weights"}
    assert_same(next_step(client, "again"), straight)

    fresh = trainer.world.client()
    reply = trainer.result(fresh.create_from(path, client.prefix("middle")))
    assert reply == {"path": path, "model_id": fresh.run.run_id, "type": "load_weights"}
    assert_same(next_step(fresh, "end"), straight)


def test_load_without_optimizer_begins_it_anew(trainer: Trainer, tiny_model_folder: Path) -> None:
    client = created(trainer)
    trainer.all(client.forward_backward(random_data(1, rows=3)), client.optim_step(1e-2))
    path = trainer.result(client.save("middle"))["path"]
    reference = Reference(
        tiny_model_folder,
        {n: d for n, d in client.files("middle").items() if n.startswith("adapter")},
    )
    data = random_data(2, rows=3)
    trainer.result(client.forward_backward(random_data(3, rows=1)))  # forgotten by the load
    trainer.result(client.load(path, client.prefix("middle"), optimizer=False))
    trainer.all(client.forward_backward(data), client.optim_step(1e-2))
    reference.backward(reference.cross_entropy(data))
    reference.step(1e-2, (0.9, 0.95), 1e-12, 0.0, 0.0)
    assert_close(weights_in(saved(trainer, client, "end")), reference.parameters())


def test_a_training_checkpoint_is_written_indexed_and_described(trainer: Trainer) -> None:
    client, store = created(trainer), trainer.world.store
    trainer.all(client.forward_backward(random_data(1, rows=1)), client.optim_step())
    request = client.save("a", ttl_seconds=3600, user_metadata={"k": "v"}, step_key="s1")
    trainer.result(request)
    record = store.checkpoints.get(client.run.run_id, "weights", "a")
    manifest = record.manifest
    assert manifest == Checkpoints(trainer.world.objects).manifest(client.prefix("a"))
    assert (manifest.step, manifest.has_optimizer, manifest.user_metadata) == (1, True, {"k": "v"})
    assert (manifest.step_key, manifest.request_id) == ("s1", request)
    assert record.settings.expires_at == pytest.approx(manifest.created_at + 3600)
    assert set(manifest.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
    }


def test_a_name_is_taken_once_unless_overwritten(trainer: Trainer) -> None:
    client = created(trainer)
    first = saved(trainer, client, "a")
    trainer.all(client.forward_backward(random_data(1, rows=1)), client.optim_step())
    with pytest.raises(Failed, match="exists already") as caught:
        trainer.result(client.save("a"))
    assert caught.value.category == "user"
    assert_same(client.files("a"), first)
    trainer.result(client.save("a", overwrite=True))
    assert client.files("a") != first


def test_a_named_policy_is_a_checkpoint_without_optimizer(trainer: Trainer) -> None:
    client = created(trainer)
    body = trainer.result(client.save_for_sampler("policy"))
    path = f"tinker://{client.run.run_id}/sampler_weights/policy"
    assert body == {"path": path, "type": "save_weights_for_sampler"}
    store = trainer.world.store
    record = store.checkpoints.get(client.run.run_id, "sampler_weights", "policy")
    assert not record.manifest.has_optimizer
    assert set(record.manifest.files) == {"adapter_config.json", "adapter_model.safetensors"}


def test_an_ephemeral_policy_is_a_sampler(trainer: Trainer) -> None:
    client = created(trainer)
    sampler_id = f"{client.run.session_id}:sample:0"
    body = trainer.result(client.save_for_sampler(None, sampler_id))
    assert body == {"sampling_session_id": sampler_id, "type": "save_weights_for_sampler"}
    sampler = trainer.world.store.samplers.get(sampler_id)
    assert sampler.policy == f"runs/{client.run.run_id}/policies/{sampler_id}"
    assert (sampler.tenant, sampler.base_model) == ("tenant-a", "test/tiny")
    files = Checkpoints(trainer.world.objects).read_files(sampler.policy)
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert trainer.world.store.checkpoints.list_run(client.run.run_id) == []


@pytest.mark.parametrize(
    ("spec", "optimizer", "expected"),
    [
        (SPEC.model_copy(update={"rank": 8}), True, "other LoRA settings"),
        (SPEC.model_copy(update={"train_mlp": False}), True, "other LoRA settings"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    trainer: Trainer, spec: LoraSpec, optimizer: bool, expected: str
) -> None:
    source, target = created(trainer, spec), created(trainer)
    path = trainer.result(source.save("a"))["path"]
    before = saved(trainer, target, "before")
    with pytest.raises(Failed, match=expected) as caught:
        trainer.result(target.load(path, source.prefix("a"), optimizer=optimizer))
    assert caught.value.category == "user"
    assert_same(saved(trainer, target, "after"), before)


def test_a_policy_has_no_optimizer_to_load(trainer: Trainer) -> None:
    client = created(trainer)
    path = trainer.result(client.save_for_sampler("p"))["path"]
    prefix = Checkpoints.prefix_of(client.run.run_id, "sampler_weights", "p")
    with pytest.raises(Failed, match="has no optimizer state"):
        trainer.result(client.load(path, prefix))
    trainer.result(client.load(path, prefix, optimizer=False))


def test_a_damaged_checkpoint_is_not_loaded(trainer: Trainer) -> None:
    client = created(trainer)
    path = trainer.result(client.save("a"))["path"]
    files = [info.key for info in trainer.world.objects.list(client.prefix("a"))]
    [key] = [key for key in files if key.endswith("adapter_model.safetensors")]
    data = bytearray(trainer.world.objects.get(key))
    data[-1] ^= 1
    trainer.world.objects.put(key, bytes(data))
    before = saved(trainer, client, "before")
    with pytest.raises(Failed, match=r"damaged.*sha256"):
        trainer.result(client.load(path, client.prefix("a")))
    assert_same(saved(trainer, client, "after"), before)


def test_a_run_from_a_checkpoint_that_is_not_there_fails_with_all_its_operations(
    trainer: Trainer,
) -> None:
    client = trainer.world.client()
    with pytest.raises(Failed, match="no checkpoint"):
        trainer.result(client.create_from("tinker://x/weights/y", "runs/x/weights/y"))
    with pytest.raises(Failed, match="could not be created: there is no checkpoint"):
        trainer.result(client.forward_backward(random_data(1, rows=1)))
