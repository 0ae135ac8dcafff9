"""Tokens are drawn from the distribution that is promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tuft.contracts.operations import SamplingParams
from tuft.sampling.distributions import draw, log_distribution, random_stream, top_of, uniform

VOCAB = 1200


def params(**values: float) -> SamplingParams:
    return SamplingParams.model_validate({"max_tokens": 1, **values})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_p": 0.7},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9},
    ],
)
def test_frequencies_match_the_distribution(values: dict[str, float]) -> None:
    """Chi-square with a fixed seed; the bound is the 99.99 % point, approximated (Wilson)."""
    generator = torch.Generator().manual_seed(1)
    # Mass in a few blocks only, with stretches of almost nothing between.
    logits = torch.full((VOCAB,), -30.0)
    places = torch.randperm(VOCAB, generator=generator)[:40]
    logits[places] = torch.randn(40, generator=generator) * 1.5
    one = params(**values)
    expected = log_distribution(logits[None], [one])[0].exp().double()
    count, batch = 40_000, 2_000
    stream = random_stream(77, 0)
    seen = torch.zeros(VOCAB)
    for _ in range(count // batch):
        uniforms = [uniform(stream) for _ in range(batch)]
        drawn = draw(logits.expand(batch, -1), [one] * batch, uniforms)
        seen += torch.bincount(drawn.tokens, minlength=VOCAB)
    assert int(seen[expected == 0].sum()) == 0
    large = expected * count >= 5
    rest = ~large
    observed = torch.cat([seen[large], seen[rest].sum()[None]]).double()
    wanted = torch.cat([expected[large], expected[rest].sum()[None]]) * count
    keep = wanted > 0
    statistic = float(((observed - wanted)[keep] ** 2 / wanted[keep]).sum())
    freedom = int(keep.sum()) - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    assert freedom >= 3
    assert statistic < bound


@pytest.mark.parametrize("temperature", [5e-324, 1e-46, 1e-40, 1e-30, 1e30, 1e300])
def test_temperatures_that_float32_can_not_hold(temperature: float) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[0, 5] = -torch.inf
    drawn = draw(logits, [params(temperature=temperature)], [0.999])
    assert not drawn.distribution.isnan().any()
    assert drawn.distribution[0, 5] == -torch.inf
    if temperature < 1:
        assert drawn.tokens.tolist() == logits.argmax(-1).tolist()
        assert drawn.logprobs.tolist() == [0.0]
    else:
        assert drawn.logprobs.item() == pytest.approx(-math.log(VOCAB - 1), abs=1e-4)


def test_drawn_logprobs_are_of_the_drawn_tokens() -> None:
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(3)) * 4
    each = [params(), params(temperature=0), params(top_k=3), params(top_p=0.4), params()]
    drawn = draw(logits, each, [0.1, 0.0, 0.99, 0.5, 0.7])
    for row in range(5):
        alone = draw(logits[row : row + 1], each[row : row + 1], [[0.1, 0.0, 0.99, 0.5, 0.7][row]])
        assert int(alone.tokens[0]) == int(drawn.tokens[row])
        at = drawn.distribution[row, drawn.tokens[row]]
        assert float(drawn.logprobs[row]) == float(at)
        assert math.isfinite(float(at))
    assert int(drawn.tokens[1]) == int(logits[1].argmax())


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_impossible_tokens_are_never_drawn(u: float) -> None:
    for possible in ([0], [511], [512], [VOCAB - 1], [3, 700], [1, 511, 512, 1023]):
        logits = torch.full((1, VOCAB), -math.inf)
        logits[0, possible] = torch.linspace(0, 5, len(possible))
        token = int(draw(logits, [params()], [u]).tokens[0])
        assert token in possible
        if u == 0.0:
            assert token == possible[0]
        if u > 0.9:
            assert token == possible[-1]


def test_uniforms_fall_into_the_right_token() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.5, 0.25]]))
    for u, token in ((0.2, 0), (0.26, 1), (0.74, 1), (0.76, 2)):
        assert int(draw(logits, [params()], [u]).tokens[0]) == token


def test_nucleus_beyond_the_first_candidates() -> None:
    """Nearly uniform: the nucleus has more tokens than are looked at first."""
    logits = torch.linspace(0, 0.5, VOCAB)[None]
    table = log_distribution(logits, [params(top_p=0.9)])[0]
    kept = torch.isfinite(table)
    ordered = logits[0].softmax(-1).flip(0).double()
    size = int((ordered.cumsum(-1) < 0.9).sum()) + 1
    assert int(kept.sum()) == size > 256
    assert bool(kept[-size:].all())
    assert float(table.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_top_k_counts_ties_once() -> None:
    table = log_distribution(torch.zeros(1, VOCAB), [params(top_k=5)])
    assert int(torch.isfinite(table).sum()) == 5


@pytest.mark.parametrize("top_k", [0, -1, VOCAB, VOCAB + 5])
def test_no_limit_keeps_everything(top_k: int) -> None:
    logits = torch.randn(1, VOCAB)
    expected = torch.log_softmax(logits, -1)
    torch.testing.assert_close(log_distribution(logits, [params(top_k=top_k)]), expected)


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e30])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 50
    drawn = draw(logits, [params(temperature=temperature)], [0.5])
    assert math.isfinite(float(drawn.logprobs[0]))
    if temperature < 1:
        assert int(drawn.tokens[0]) == int(logits.argmax())


def test_bfloat16_logits_are_computed_in_float32() -> None:
    logits = torch.randn(2, VOCAB).bfloat16()
    table = log_distribution(logits, [params()] * 2)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table.exp().sum(-1), 1, atol=1e-5)


def test_top_of_marks_empty_cells() -> None:
    table = torch.tensor([[-math.inf, -0.5, -1.5, -math.inf]])
    ids, values = top_of(table, 6)
    assert ids.tolist() == [[1, 2, 0, 0, 0, 0]]
    assert values.tolist() == [[-0.5, -1.5, -99999.0, -99999.0, -99999.0, -99999.0]]


def test_streams_depend_on_seed_and_number_only() -> None:
    def first(seed: int, sample: int) -> list[float]:
        stream = random_stream(seed, sample)
        return [uniform(stream) for _ in range(3)]

    assert first(1, 0) == first(1, 0)
    several = [first(seed, sample) for seed in (-5, 0, 1, 10**30) for sample in range(3)]
    assert len({tuple(each) for each in several}) == 12
