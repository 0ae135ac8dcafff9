from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.service.training.harness import Datum, random_data, row_group
from tests.service.training.reference import Reference, assert_close
from tuft.contracts.records import LoraSpec
from tuft.errors import ConfigError
from tuft.modeling.adapters import adapter_files, new_adapter
from tuft.modeling.loading import load_base
from tuft.modeling.lora import Adapter, inject_lora
from tuft.training.commands import RowGroup, RowResult
from tuft.training.forward import Forward
from tuft.training.losses import token_losses

RL = {"logprobs": 1.0, "advantages": 1.0}


def random_adapter(model: Any, seed: int) -> Adapter:
    adapter = new_adapter(model, LoraSpec(rank=4, alpha=32, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in adapter.tensors().items():
        if name.endswith("lora_B"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return adapter


def gradients(adapter: Adapter) -> dict[str, torch.Tensor]:
    """By their names in a checkpoint."""
    found = adapter.gradients()
    assert found
    return {
        f"base_model.model.{name.replace('/', '.')}.weight": gradient.clone()
        for name, gradient in found.items()
    }


def compute(
    model: Any, adapters: Mapping[str, Adapter], micro_batch: Sequence[RowGroup]
) -> list[RowResult]:
    return Forward(model).compute(adapters, micro_batch)


@pytest.mark.parametrize(
    ("loss_fn", "names"),
    [
        ("cross_entropy", {}),
        ("cross_entropy", {"weights": 1.0}),
        ("importance_sampling", RL),
        ("ppo", RL),
        ("cispo", RL),
        ("dro", RL),
    ],
)
def test_losses_logprobs_and_gradients_equal_plain_pytorch(
    base_model: Any, tiny_model_folder: Path, loss_fn: str, names: dict[str, float]
) -> None:
    adapter = random_adapter(base_model, 3)
    data = random_data(5, rows=4, spread=names)
    results = compute(base_model, {"a": adapter}, [row_group("a", data, loss_fn)])

    reference = Reference(tiny_model_folder, adapter_files(adapter, "base"))
    total = torch.zeros(())
    for datum, result in zip(data, results, strict=True):
        lp = reference.logprobs(datum)
        inputs = {name: torch.from_numpy(array) for name, array in datum.inputs.items()}
        loss = token_losses(loss_fn, lp, inputs, {}).sum()
        np.testing.assert_allclose(result.logprobs, lp.detach().numpy(), rtol=1e-5, atol=1e-5)
        assert result.loss == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-4)
        total = total + loss
    reference.backward(total)
    expected = {name: p.grad for name, p in reference.parameters().items() if p.grad is not None}
    assert_close(gradients(adapter), expected, relative=2e-5)


def test_targets_may_have_several_columns(base_model: Any, tiny_model_folder: Path) -> None:
    adapter = random_adapter(base_model, 3)
    rng = np.random.default_rng(1)
    wide = [
        Datum(
            rng.integers(0, 512, 6).tolist(),
            rng.integers(0, 512, (6, k)).astype(np.int64),
            {"weights": rng.standard_normal((6, k)).astype(np.float32)},
        )
        for k in (3, 1)
    ]
    data = [*wide, *random_data(5, rows=1)]
    results = compute(base_model, {"a": adapter}, [row_group("a", data)])
    assert [result.logprobs.shape for result in results] == [
        (6, 3),
        (6, 1),
        (len(data[2].tokens),),
    ]
    reference = Reference(tiny_model_folder, adapter_files(adapter, "base"))
    for datum, result in zip(data, results, strict=True):
        expected = reference.logprobs(datum).detach().numpy()
        np.testing.assert_allclose(result.logprobs, expected, rtol=1e-5, atol=1e-5)
    reference.backward(reference.cross_entropy(data))
    expected_gradients = {
        name: p.grad for name, p in reference.parameters().items() if p.grad is not None
    }
    assert_close(gradients(adapter), expected_gradients, relative=2e-5)


def test_groups_of_two_runs_share_a_batch(base_model: Any) -> None:
    one, two = random_adapter(base_model, 1), random_adapter(base_model, 2)
    first, second = random_data(1, rows=2), random_data(2, rows=3, spread=RL)
    mixed = compute(
        base_model, {"a": one, "b": two}, [row_group("a", first), row_group("b", second, "ppo")]
    )
    together = {**gradients(one), **{f"two.{k}": v for k, v in gradients(two).items()}}
    one.forget_gradient()
    two.forget_gradient()
    alone = compute(base_model, {"a": one}, [row_group("a", first)])
    alone += compute(base_model, {"b": two}, [row_group("b", second, "ppo")])
    for got, expected in zip(mixed, alone, strict=True):
        np.testing.assert_allclose(got.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)
    apart = {**gradients(one), **{f"two.{k}": v for k, v in gradients(two).items()}}
    assert_close(together, apart, relative=2e-5)


def test_forward_only_leaves_no_gradient(base_model: Any) -> None:
    adapter = random_adapter(base_model, 1)
    data = random_data(1, rows=2)
    plain = compute(base_model, {"a": adapter}, [row_group("a", data, backward=False)])
    assert adapter.flat.grad is None
    trained = compute(base_model, {"a": adapter}, [row_group("a", data)])
    assert [result.loss for result in plain] == [result.loss for result in trained]


def test_a_row_that_is_not_finite_keeps_its_group_from_the_gradient(base_model: Any) -> None:
    good, bad = random_adapter(base_model, 1), random_adapter(base_model, 2)
    data = random_data(1, rows=2, spread=RL)
    broken = random_data(2, rows=2, spread=RL)
    broken[1].inputs["logprobs"][1] = -1e30  # the ratio overflows
    results = compute(
        base_model,
        {"good": good, "bad": bad},
        [
            row_group("good", data, "importance_sampling"),
            row_group("bad", broken, "importance_sampling"),
        ],
    )
    assert [bool(np.isfinite(result.loss)) for result in results] == [True, True, True, False]
    assert all(bool(torch.isfinite(grad).all()) for grad in gradients(good).values())
    assert any(float(grad.abs().max()) > 0 for grad in gradients(good).values())
    assert bad.flat.grad is None or not bad.flat.grad.any()


def test_a_bfloat16_base_trains_float32_adapters(base_model: Any, tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "bfloat16", "cpu")
    inject_lora(model)
    data = random_data(1, rows=3)
    plain, rough = random_adapter(base_model, 1), random_adapter(model, 1)
    expected = compute(base_model, {"a": plain}, [row_group("a", data)])
    got = compute(model, {"a": rough}, [row_group("a", data)])
    for one, two in zip(got, expected, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=0.02)
    assert {grad.dtype for grad in gradients(rough).values()} == {torch.float32}


def test_a_model_with_another_head_is_refused(tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "float32", "cpu")
    plain = type(model).forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        out = plain(model, *args, **kwargs)
        out.logits = torch.tanh(out.logits)
        return out

    model.forward = capped
    with pytest.raises(ConfigError, match="change their logits"):
        Forward(model)
