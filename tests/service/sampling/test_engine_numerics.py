"""The engine against the model's own forward and `generate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.service.sampling.harness import (
    LoadPolicy,
    MakeEngine,
    MakePolicy,
    ask,
    only,
    policy_files,
    reference_logits,
    reference_logprobs,
    run,
    transformers_only,
)
from tuft.sampling.engine import Engine

PROMPTS = [[5, 17, 300, 42], list(range(3, 40)), [511], [9, 9, 8, 1, 250, 33, 2]]


def test_greedy_equals_generate(engine: Engine, plain: Any) -> None:
    requests = [ask(prompt, temperature=0.0, max_tokens=40) for prompt in PROMPTS]
    for prompt, result in zip(PROMPTS, run(engine, *requests), strict=True):
        expected = plain.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=40, eos_token_id=None
        )
        assert only(result).tokens.tolist() == expected[0, len(prompt) :].tolist()
        assert only(result).stop_reason == "length"


def test_sampled_logprobs_equal_recomputed(engine: Engine, plain: Any) -> None:
    requests = [ask(prompt, num_samples=3, max_tokens=20) for prompt in PROMPTS]
    for prompt, result in zip(PROMPTS, run(engine, *requests), strict=True):
        assert len(result.sequences) == 3
        for sequence in result.sequences:
            expected = reference_logprobs(plain, prompt, sequence.tokens.tolist())
            np.testing.assert_allclose(sequence.logprobs, expected, atol=1e-4)


def test_greedy_logprobs_are_of_temperature_one(engine: Engine, plain: Any) -> None:
    result = only(run(engine, ask(PROMPTS[0], temperature=0.0, top_k=1))[0])
    expected = reference_logprobs(plain, PROMPTS[0], result.tokens.tolist())
    np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)


def test_logprobs_are_of_the_distribution_sampled_from(engine: Engine, plain: Any) -> None:
    prompt = PROMPTS[1]
    params: dict[str, Any] = {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
    result = only(run(engine, ask(prompt, seed=3, max_tokens=12, topk_sample=25, **params))[0])
    tokens = result.tokens.tolist()
    logits = reference_logits(plain, [*prompt, *tokens])[len(prompt) - 1 : -1]
    assert result.topk is not None
    for step, (token, row) in enumerate(zip(tokens, logits, strict=True)):
        kept = _nucleus((row / 0.7).softmax(-1), top_k=20, top_p=0.8)
        assert result.logprobs[step] == pytest.approx(np.log(kept[token]), abs=1e-4)
        ids, values = result.topk[0][step], result.topk[1][step]
        shown = dict(zip(ids[: len(kept)].tolist(), values[: len(kept)].tolist(), strict=True))
        assert shown == pytest.approx({key: np.log(p) for key, p in kept.items()}, abs=1e-4)
        assert set(ids[len(kept) :].tolist()) == {0}
        assert set(values[len(kept) :].tolist()) == {-99999.0}


def _nucleus(probabilities: torch.Tensor, top_k: int, top_p: float) -> dict[int, float]:
    """By the definition, one token after the other."""
    order = sorted(range(len(probabilities)), key=lambda i: -float(probabilities[i]))[:top_k]
    total = sum(float(probabilities[i]) for i in order)
    kept: dict[int, float] = {}
    while sum(kept.values()) < top_p:
        token = order[len(kept)]
        kept[token] = float(probabilities[token]) / total
    mass = sum(kept.values())
    return {token: p / mass for token, p in kept.items()}


def test_prompt_logprobs(
    engine: Engine, plain: Any, make_policy: MakePolicy, load_policy: LoadPolicy
) -> None:
    files = make_policy(1)
    check_prompt_logprobs(engine, plain, load_policy(files), files)


@transformers_only
def test_prompt_logprobs_of_a_prompt_read_in_pieces(make_engine: MakeEngine, plain: Any) -> None:
    engine, files = make_engine(prefill_tokens=7), policy_files(plain, seed=1)
    engine.load_policy("p", files)
    check_prompt_logprobs(engine, plain, "p", files)


def check_prompt_logprobs(engine: Engine, plain: Any, name: str, files: dict[str, bytes]) -> None:
    requests = [
        ask(prompt, max_tokens=1, prompt_logprobs=True, topk_prompt=3, policy=policy)
        for prompt in PROMPTS
        for policy in (None, name)
    ]
    for request, result in zip(requests, run(engine, *requests), strict=True):
        prompt = request.prompt
        logits = reference_logits(plain, prompt, files if request.policy else None)
        table = torch.log_softmax(logits, dim=-1)
        scores, topk = result.prompt_logprobs, result.topk_prompt
        assert scores is not None
        assert topk is not None
        assert scores.shape == (len(prompt),)
        assert np.isnan(scores[0])
        assert topk[0].shape == topk[1].shape == (len(prompt), 3)
        assert topk[0][0].tolist() == [0, 0, 0]
        assert set(topk[1][0].tolist()) == {-99999.0}
        expected = table[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        np.testing.assert_allclose(scores[1:], expected, atol=1e-4)
        top = table[:-1].topk(3)
        np.testing.assert_array_equal(topk[0][1:], top.indices)
        np.testing.assert_allclose(topk[1][1:], top.values, atol=1e-4)
        sampled = only(result)
        assert sampled.logprobs[0] == pytest.approx(float(table[-1, sampled.tokens[0]]), abs=1e-4)


def test_topk_prompt_without_prompt_logprobs(engine: Engine) -> None:
    result = run(engine, ask(PROMPTS[0], topk_prompt=2))[0]
    assert result.prompt_logprobs is None
    assert result.topk_prompt is not None
    assert result.topk_prompt[0].shape == (4, 2)


@transformers_only
def test_prompt_read_in_pieces_changes_nothing(make_engine: MakeEngine) -> None:
    requests = [ask(prompt, seed=8, max_tokens=10) for prompt in PROMPTS]
    whole = run(make_engine(), *requests)
    pieces = run(make_engine(prefill_tokens=5), *requests)
    for one, other in zip(whole, pieces, strict=True):
        assert only(one).tokens.tolist() == only(other).tokens.tolist()
        np.testing.assert_allclose(only(one).logprobs, only(other).logprobs, atol=1e-4)


def test_sequences_outgrow_their_place_in_the_cache(engine: Engine, plain: Any) -> None:
    """From 4 to over 200 positions: through three slabs, in company of shorter ones."""
    requests = [ask(prompt, max_tokens=n, seed=n) for prompt in PROMPTS for n in (3, 61, 200)]
    for request, result in zip(requests, run(engine, *requests), strict=True):
        tokens = only(result).tokens.tolist()
        assert len(tokens) == request.params.max_tokens
        expected = reference_logprobs(plain, request.prompt, tokens)
        np.testing.assert_allclose(only(result).logprobs, expected, atol=1e-4)
