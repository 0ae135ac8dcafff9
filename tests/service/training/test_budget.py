from __future__ import annotations

import pytest

from tuft.training.budget import automatic_budget


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
