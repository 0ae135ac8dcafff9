from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tuft.contracts.losses import LOSSES
from tuft.errors import InvalidRequest
from tuft.training.losses import token_losses

Floats = npt.NDArray[np.float64]
# Ratios from 0.61 to 6.05: under, between and over every default threshold; both signs of A.
LP = np.array([-1.0, -2.5, -0.2, -3.0, -1.5, -0.5, -0.7])
Q = np.array([-1.1, -2.0, -2.0, -3.0, -1.4, -0.8, -1.0])
A = np.array([0.5, -1.0, 2.0, 0.0, -0.3, 1.5, -2.0])
R = np.exp(LP - Q)


def clipped(low: float, high: float) -> Floats:
    return np.asarray(np.minimum(np.maximum(R, low), high))


def ppo(low: float, high: float) -> tuple[float, Floats]:
    plain, bounded = R * A, clipped(low, high) * A
    inside = (low <= R) & (high >= R)
    return -float(np.minimum(plain, bounded).sum()), np.where(
        (plain <= bounded) | inside, -plain, 0
    )


def cispo(low: float, high: float) -> tuple[float, Floats]:
    return -float((clipped(low, high) * LP * A).sum()), -clipped(low, high) * A


def dro(beta: float) -> tuple[float, Floats]:
    drift = LP - Q
    return -float((LP * A - beta / 2 * drift**2).sum()), -(A - beta * drift)


CASES: list[tuple[str, Mapping[str, float], Callable[[], tuple[float, Floats]]]] = [
    ("cross_entropy", {}, lambda: (-float(LP.sum()), -np.ones(7))),
    ("importance_sampling", {}, lambda: (-float((R * A).sum()), -R * A)),
    ("ppo", {}, lambda: ppo(0.8, 1.2)),
    ("ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 1.05}, lambda: ppo(0.5, 1.05)),
    ("cispo", {}, lambda: cispo(0.0, 4.0)),
    ("cispo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}, lambda: cispo(0.9, 1.1)),
    ("dro", {}, lambda: dro(0.05)),
    ("dro", {"beta": 0.7}, lambda: dro(0.7)),
]


@pytest.mark.parametrize(("name", "config", "expected"), CASES)
def test_value_and_gradient_follow_the_formula(
    name: str, config: dict[str, float | str], expected: Callable[[], tuple[float, Floats]]
) -> None:
    lp = torch.tensor(LP, dtype=torch.float64, requires_grad=True)
    inputs = {"logprobs": torch.tensor(Q), "advantages": torch.tensor(A)}
    loss = token_losses(name, lp, {} if name == "cross_entropy" else inputs, config).sum()
    torch.autograd.backward(loss)
    value, gradient = expected()
    assert float(loss.detach()) == pytest.approx(value, rel=1e-12)
    assert lp.grad is not None
    np.testing.assert_allclose(lp.grad.numpy(), gradient, rtol=1e-12)


def test_weights_are_any_real_numbers_of_any_shape() -> None:
    lp = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    weights = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    assert (
        float(token_losses("cross_entropy", lp, {"weights": weights}, {}).sum()) == 0.5 - 2.0 + 8.0
    )


def test_every_loss_of_the_contract_is_served() -> None:
    for name in LOSSES:
        inputs = {key: torch.ones(2) for key in ("logprobs", "advantages")}
        assert torch.isfinite(token_losses(name, -torch.ones(2), inputs, {}).sum())


def test_an_unknown_loss_names_the_served_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"'gspo' is not served; use one of .*'ppo'"):
        token_losses("gspo", torch.zeros(1), {}, {})
