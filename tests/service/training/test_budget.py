from __future__ import annotations

import pytest

from tuft.training.budget import Budget, automatic_budget


@pytest.mark.parametrize(
    ("parameters", "device", "tokens"),
    [
        (134_515_008, "cpu", 128),
        (8_000_000_000, "cpu", 128),
        (60_000_000, "cpu", 256),
        (200_000, "cpu", 1024),
        (0, "cpu", 1024),
        (8_000_000_000, "cuda", 8192),
    ],
)
def test_smaller_models_take_more_tokens_at_once(parameters: int, device: str, tokens: int) -> None:
    assert automatic_budget(parameters, device) == tokens


def test_a_run_that_is_alone_for_a_while_takes_more_at_once() -> None:
    budget = Budget.automatic(135_000_000, "cpu")
    assert budget.tokens({"a"}, now=0.0) == 512
    assert budget.tokens({"a", "b"}, now=1.0) == 128
    assert budget.tokens({"a"}, now=30.0) == 128
    assert budget.tokens({"a"}, now=32.0) == 512
