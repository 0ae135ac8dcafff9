from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tuft.contracts.records import LoraSpec
from tuft.errors import InvalidRequest
from tuft.modeling.adapters import new_adapter
from tuft.modeling.loading import load_base
from tuft.modeling.lora import (
    Adapter,
    LoraLinear,
    Segment,
    inject_lora,
    target_modules,
    use_adapters,
)

IDS = torch.tensor([[5, 9, 33, 101], [7, 8, 9, 10], [400, 3, 2, 77]])


def random_adapter(model: Any, seed: int, rank: int = 4, **modules: bool) -> Adapter:
    adapter = new_adapter(model, LoraSpec(rank=rank, alpha=32, seed=seed, **modules))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in adapter.tensors().items():
        if name.endswith("lora_B"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return adapter


def logits(model: Any, *segments: Segment, ids: torch.Tensor = IDS) -> torch.Tensor:
    with use_adapters(model, segments):
        out = model(input_ids=ids).logits
    assert isinstance(out, torch.Tensor)
    return out


def test_target_modules_are_the_projections_and_the_head(base_folder: Path) -> None:
    model = load_base(base_folder, "float32", "cpu")
    before = target_modules(model)
    kinds = list(before.values())
    assert (kinds.count("attn"), kinds.count("mlp"), kinds.count("unembed")) == (16, 12, 1)
    assert before["model.layers.2.self_attn.o_proj"] == "attn"
    assert before["model.layers.0.mlp.gate_proj"] == "mlp"
    assert before["lm_head"] == "unembed"
    inject_lora(model)
    assert target_modules(model) == before


def test_without_active_adapter_the_model_is_exactly_the_base(
    base_folder: Path, lora_model: Any
) -> None:
    base = load_base(base_folder, "float32", "cpu")
    expected = base(input_ids=IDS).logits
    assert torch.equal(lora_model(input_ids=IDS).logits, expected)
    assert torch.equal(logits(lora_model, Segment(None, 3)), expected)
    fresh = new_adapter(lora_model, LoraSpec(rank=4, alpha=32, seed=1))
    assert torch.equal(logits(lora_model, Segment(fresh, 3)), expected)


def test_each_segment_gets_its_own_adapter(lora_model: Any) -> None:
    one, two = random_adapter(lora_model, 1), random_adapter(lora_model, 2, rank=7)
    mixed = logits(lora_model, Segment(one, 1), Segment(None, 1), Segment(two, 1))
    for row, adapter in enumerate((one, None, two)):
        alone = logits(lora_model, Segment(adapter, 1), ids=IDS[row : row + 1])
        torch.testing.assert_close(mixed[row], alone[0], rtol=1e-5, atol=1e-5)
    assert (mixed[0] - logits(lora_model, Segment(None, 3))[0]).abs().max() > 0.01


def gradient_of(model: Any, ids: torch.Tensor, *segments: Segment) -> list[torch.Tensor]:
    """Of each segment's adapter, flat."""
    adapters = [segment.adapter for segment in segments if segment.adapter is not None]
    for adapter in adapters:
        adapter.begin_gradient()
    torch.autograd.backward(logits(model, *segments, ids=ids).logsumexp(-1).sum())
    gradients = []
    for adapter in adapters:
        assert adapter.flat.grad is not None
        gradients.append(adapter.flat.grad.clone())
        adapter.forget_gradient()
    return gradients


def test_gradients_of_a_mixed_batch_equal_those_of_each_alone(lora_model: Any) -> None:
    one, two = random_adapter(lora_model, 1), random_adapter(lora_model, 2, train_mlp=False)
    mixed = gradient_of(lora_model, IDS, Segment(one, 2), Segment(two, 1))
    alone = gradient_of(lora_model, IDS[:2], Segment(one, 2))
    alone += gradient_of(lora_model, IDS[2:], Segment(two, 1))
    for got, expected in zip(mixed, alone, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_autograd(lora_model: Any) -> None:
    adapter = random_adapter(lora_model, 1)
    (got,) = gradient_of(lora_model, IDS, Segment(adapter, 3))
    weights = {name: t.clone().requires_grad_() for name, t in adapter.tensors().items()}

    def with_lora(module: Any, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        key = module.name.replace(".", "/")
        low = inputs[0] @ weights[f"{key}/lora_A"].T @ weights[f"{key}/lora_B"].T
        return out + adapter.scaling * low

    for module in lora_model.modules():
        if isinstance(module, LoraLinear):
            module.register_forward_hook(with_lora)
    torch.autograd.backward(lora_model(input_ids=IDS).logits.logsumexp(-1).sum())
    for name, view in adapter.views_of(got).items():
        expected = weights[name].grad
        assert expected is not None
        torch.testing.assert_close(view, expected, rtol=1e-4, atol=1e-5)


def test_a_segment_that_does_not_train_adds_no_gradient(lora_model: Any) -> None:
    one, two = random_adapter(lora_model, 1), random_adapter(lora_model, 2)
    still = Segment(two, 1, trains=False)
    mixed, none = gradient_of(lora_model, IDS, Segment(one, 2), still)
    (alone,) = gradient_of(lora_model, IDS[:2], Segment(one, 2))
    torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-5)
    assert not none.any()


def test_the_base_gets_no_gradient(lora_model: Any) -> None:
    gradient_of(lora_model, IDS, Segment(random_adapter(lora_model, 1), 3))
    assert all(parameter.grad is None for parameter in lora_model.parameters())


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"train_mlp": False, "train_unembed": False}, 16),
        ({"train_attn": False, "train_unembed": False}, 12),
        ({"train_attn": False, "train_mlp": False}, 1),
    ],
)
def test_train_flags_select_layers(lora_model: Any, chosen: dict[str, bool], expected: int) -> None:
    adapter = new_adapter(lora_model, LoraSpec(rank=2, alpha=32, seed=1, **chosen))
    assert len(adapter.modules_trained) == expected
    assert len(adapter.tensors()) == 2 * expected


def test_an_adapter_without_layers_is_refused(lora_model: Any) -> None:
    spec = LoraSpec(
        rank=2, alpha=32, seed=1, train_attn=False, train_mlp=False, train_unembed=False
    )
    with pytest.raises(InvalidRequest, match="train_attn"):
        new_adapter(lora_model, spec)


def test_the_seed_decides_the_first_weights(lora_model: Any) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return new_adapter(lora_model, LoraSpec(rank=4, alpha=32, seed=seed)).tensors()

    first, again, other = weights(1), weights(1), weights(2)
    name = "model/layers/0/mlp/up_proj/lora_A"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first[name.replace("up_proj", "gate_proj")])
    # kaiming_uniform with a = sqrt(5): uniform in ±1/sqrt(in)
    assert 0.9 / 8 < float(first[name].abs().max()) <= 1 / 8


def test_segments_must_cover_the_batch(lora_model: Any) -> None:
    adapter = random_adapter(lora_model, 1)
    with pytest.raises(ValueError, match="cover 2 rows, but the batch has 3"):
        logits(lora_model, Segment(adapter, 2))


def test_use_adapters_ends_with_its_block(lora_model: Any) -> None:
    adapter = random_adapter(lora_model, 1)
    before = lora_model(input_ids=IDS).logits
    logits(lora_model, Segment(adapter, 3))
    assert torch.equal(lora_model(input_ids=IDS).logits, before)


def test_a_model_is_injected_once(lora_model: Any) -> None:
    with pytest.raises(RuntimeError, match="before"):
        inject_lora(lora_model)
