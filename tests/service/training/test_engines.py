"""Adapters that leave memory and come back, on one rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.service.training.harness import SPEC
from tuft.contracts.operations import OptimStep
from tuft.contracts.records import LoraSpec
from tuft.deepspeed_config import DeepSpeedPlan
from tuft.errors import DamagedCheckpoint
from tuft.modeling.adapters import new_adapter
from tuft.training.engines import Engines
from tuft.training.group import Place
from tuft.training.state import AdapterState

STEP = OptimStep(
    learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip_norm=0.0
)


def add_gradient(engines: Engines, run_id: str, seed: int) -> None:
    adapter = engines[run_id].adapter
    adapter.begin_gradient()
    assert adapter.flat.grad is not None
    adapter.flat.grad += torch.randn(
        adapter.flat.shape, generator=torch.Generator().manual_seed(seed)
    )


def trained(engines: Engines, model: Any, run_id: str, spec: LoraSpec = SPEC) -> None:
    """With moments after two steps, and a gradient."""
    engines.start(run_id, new_adapter(model, spec), None)
    for seed in range(2):
        add_gradient(engines, run_id, seed)
        engines[run_id].step(STEP)
    add_gradient(engines, run_id, 3)


def after_a_step(engines: Engines, run_id: str) -> dict[str, torch.Tensor]:
    add_gradient(engines, run_id, 4)
    engines[run_id].step(STEP)
    return {name: tensor.clone() for name, tensor in engines[run_id].tensors().items()}


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys() == {"flat", "exp_avg", "exp_avg_sq"}
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


@pytest.fixture
def engines(place: Place) -> Engines:
    return Engines(DeepSpeedPlan())


def test_an_engine_is_used_again_and_nothing_of_the_one_before_is_left(
    engines: Engines, base_model: Any
) -> None:
    trained(engines, base_model, "a")
    expected = after_a_step(engines, "a")
    used = engines["a"]
    engines.close("a")
    other = SPEC.model_copy(update={"seed": 99, "alpha": 8.0})
    trained(engines, base_model, "b", other)
    assert engines["b"] is used
    assert (used.adapter.spec, used.adapter.scaling) == (other, 2.0)
    engines.close("b")
    trained(engines, base_model, "c")
    assert engines["c"] is used
    assert_equal(after_a_step(engines, "c"), expected)


@pytest.mark.parametrize("others", [0, 1, 3])
def test_what_was_put_away_comes_back_bit_for_bit(
    engines: Engines, base_model: Any, others: int
) -> None:
    """With `others` 0 into its own engine, with more into another one, or into a new one."""
    trained(engines, base_model, "alone")
    expected = after_a_step(engines, "alone")
    engines.close("alone")
    trained(engines, base_model, "a")
    engines.spill("a")
    with pytest.raises(KeyError):
        engines["a"]
    for number in range(others):
        trained(engines, base_model, f"other{number}")
    if others == 3:
        engines.spill("other0")
        engines.close("other0")
        trained(engines, base_model, "other3")
    engines.unspill("a")
    assert_equal(after_a_step(engines, "a"), expected)
    if others == 1:
        assert_equal(after_a_step(engines, "other0"), expected)


def test_a_fresh_adapter_comes_back_without_moments(engines: Engines, base_model: Any) -> None:
    engines.start("a", new_adapter(base_model, SPEC), None)
    before = engines["a"].adapter.flat.detach().clone()
    engines.spill("a")
    trained(engines, base_model, "b")
    engines.unspill("a")
    assert (engines["a"].steps, set(engines["a"].tensors())) == (0, {"flat"})
    assert torch.equal(engines["a"].adapter.flat.detach(), before)


def test_a_damaged_optimizer_leaves_the_earlier_adapter(engines: Engines, base_model: Any) -> None:
    trained(engines, base_model, "a")
    engine = engines["a"]
    with pytest.raises(DamagedCheckpoint):
        engines.start("a", new_adapter(base_model, SPEC), b"damaged")
    assert engines["a"] is engine
    assert engine.steps == 2
    assert "grad" in engine.tensors()


@pytest.mark.parametrize("others", [0, 1])
def test_what_was_captured_goes_on_bit_for_bit_and_does_not_change(
    engines: Engines, base_model: Any, others: int
) -> None:
    """A thread encodes it while the run goes on. It comes back in its own shape of engine."""
    trained(engines, base_model, "a")
    state = engines["a"].capture(gradient=True)
    expected = after_a_step(engines, "a")
    encoded = state.encode()
    engines.close("a")
    for number in range(others):
        trained(engines, base_model, f"other{number}")
    engines.resume("a", AdapterState.decode(encoded), torch.device("cpu"), gradient=True)
    assert_equal(after_a_step(engines, "a"), expected)


@pytest.mark.parametrize("place", ["header", "layout", "missing"])
def test_a_damaged_state_is_told(engines: Engines, base_model: Any, place: str) -> None:
    trained(engines, base_model, "a")
    state = engines["a"].capture(gradient=False)
    damaged = {
        "header": state.encode()[:50],
        "layout": replace(state, layout=state.layout[1:]).encode(),
        "missing": replace(state, tensors={"grad": state.tensors["flat"]}).encode(),
    }[place]
    with pytest.raises(DamagedCheckpoint, match="state of a snapshot"):
        AdapterState.decode(damaged)
