"""What was read a moment ago is not read again, and changes no result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.service.sampling.harness import (
    MakeEngine,
    ask,
    count_passes,
    drain,
    only,
    policy_files,
    reference_logprobs,
    result_of,
    run,
    transformers_only,
)
from tuft.sampling.cache import Prefix
from tuft.sampling.recent_prompts import RecentPrompts
from tuft.sampling.transformers_engine import TransformersEngine

PROMPT = list(range(20, 60))


@transformers_only
def test_group_of_one_prompt_in_several_requests_reads_it_once(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(PROMPT, seed=seed, max_tokens=5) for seed in range(6)]
    alone = [run(make_engine(), request)[0] for request in requests]
    engine = make_engine()
    passes = count_passes(engine, monkeypatch)
    together = run(engine, *requests)
    assert [shape for shape in passes if shape[1] > 1] == [[1, 40]]
    assert len(passes) <= 6, "they should decode together"
    for one, other in zip(together, alone, strict=True):
        assert only(one).tokens.tolist() == only(other).tokens.tolist()
        np.testing.assert_allclose(only(one).logprobs, only(other).logprobs, atol=1e-4)
    assert [each.prompt_cache_hit_tokens for each in together] == [0] + [40] * 5


@transformers_only
def test_turns_of_a_conversation_read_what_is_new(
    engine: TransformersEngine, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = policy_files(plain, seed=1)
    engine.load_policy("p", files)
    run(engine, ask(PROMPT, policy="p"), ask(PROMPT[:30] + [1] * 10, policy="p"))
    passes = count_passes(engine, monkeypatch)
    # Two at once that continue at different places, one that begins, in one padded pass.
    prompts = [PROMPT + [7] * 20, PROMPT[:30] + [9] * 15, [3] * 18]
    results = run(engine, *(ask(prompt, policy="p", max_tokens=6) for prompt in prompts))
    assert [each.prompt_cache_hit_tokens for each in results] == [40, 30, 0]
    assert [shape for shape in passes if shape[1] > 1] == [[3, 20]]
    for prompt, result in zip(prompts, results, strict=True):
        expected = reference_logprobs(plain, prompt, only(result).tokens.tolist(), files)
        np.testing.assert_allclose(only(result).logprobs, expected, atol=1e-4)


@transformers_only
def test_other_tenants_policies_and_scores_share_nothing(
    engine: TransformersEngine, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load_policy("p", policy_files(plain, seed=1))
    run(engine, ask(PROMPT))
    for request in (
        ask(PROMPT, tenant="another"),
        ask(PROMPT, policy="p"),
        ask(PROMPT, prompt_logprobs=True),
    ):
        passes = count_passes(engine, monkeypatch)
        result = run(engine, request)[0]
        assert passes[0] == [1, 40]
        assert result.prompt_cache_hit_tokens == 0


@transformers_only
def test_policy_that_comes_back_is_read_anew(engine: TransformersEngine, plain: Any) -> None:
    engine.load_policy("p", policy_files(plain, seed=1))
    run(engine, ask(PROMPT, policy="p"))
    engine.drop_policy("p")
    other = policy_files(plain, seed=2)
    engine.load_policy("p", other)
    result = run(engine, ask(PROMPT, policy="p"))[0]
    assert result.prompt_cache_hit_tokens == 0
    expected = reference_logprobs(plain, PROMPT, only(result).tokens.tolist(), other)
    np.testing.assert_allclose(only(result).logprobs, expected, atol=1e-4)


def test_least_recently_used_are_forgotten() -> None:
    recent = RecentPrompts(max_cells=103, cell_bytes=12)
    owner = ("local", None)
    prompts = {name: [name] * 40 for name in (1, 2, 3)}

    def add(name: int) -> None:
        recent.add(owner, prompts[name], Prefix(40, 1), torch.zeros(3))

    add(1)
    add(2)
    assert recent.whole(owner, prompts[1]) is not None
    add(3)
    add(3)
    assert [recent.whole(owner, prompts[name]) is not None for name in (1, 2, 3)] == [1, 0, 1]
    assert recent.whole(("other", None), prompts[1]) is None
    found = recent.beginning(owner, [3] * 60)
    assert found is not None
    assert found[1] == 40
    assert recent.beginning(owner, [3] * 7 + [1]) is None
    # Of the same prompt all but the last token: its logits have to come from somewhere.
    found = recent.beginning(owner, prompts[1])
    assert found is not None
    assert found[1] == 39
    recent.add(owner, [4] * 103, Prefix(103, 1), torch.zeros(3))
    assert recent.whole(owner, [4] * 103) is None


def test_logits_take_room_too() -> None:
    recent = RecentPrompts(max_cells=100, cell_bytes=8)
    owner = ("local", None)
    # 10 tokens and 80 bytes of logits: 20 positions.
    for name in range(6):
        recent.add(owner, [name] * 10, Prefix(10, 1), torch.zeros(20))
    held = [recent.whole(owner, [name] * 10) is not None for name in range(6)]
    assert held == [False, True, True, True, True, True]


def test_what_may_be_held_shrinks_and_grows() -> None:
    recent = RecentPrompts(max_cells=100, cell_bytes=12)
    owner = ("local", None)
    for name in (1, 2):
        recent.add(owner, [name] * 40, Prefix(40, 1), torch.zeros(3))
    recent.allow(41)
    assert recent.beginning(owner, [1] * 60) is None
    assert recent.beginning(owner, [2] * 60) is not None
    recent.allow(0)
    assert recent.beginning(owner, [2] * 60) is None
    recent.allow(81)
    recent.add(owner, [2] * 80, Prefix(80, 1), torch.zeros(3))
    assert recent.whole(owner, [2] * 80) is not None


@transformers_only
def test_prompts_have_the_room_that_sequences_leave(make_engine: MakeEngine) -> None:
    """A turn of many conversations at once: each one's last turn is still there."""
    engine = make_engine(max_cells=1024)
    prompts = [[start, *PROMPT] for start in range(10)]
    run(engine, *(ask(prompt, max_tokens=1) for prompt in prompts))
    again = run(engine, *(ask([*prompt, 7, 8], max_tokens=1) for prompt in prompts))
    assert [each.prompt_cache_hit_tokens for each in again] == [41] * 10
    # While long sequences run they have the room, and an eighth is left to prompts.
    engine.submit(ask([99] * 5, max_tokens=100, num_samples=8))
    engine.step()
    run_on = [ask([*prompt, 7, 8, 9], max_tokens=1) for prompt in prompts]
    for request in run_on:
        engine.submit(request)
    results = drain(engine)
    hits = [result_of(results[each.request_id]).prompt_cache_hit_tokens for each in run_on]
    assert hits[:3] == [0, 0, 0], "the least recently used were forgotten"


@transformers_only
def test_turns_of_many_conversations_are_read_together(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what is new in a prompt, not how long the conversation is."""
    engine = make_engine(prefill_tokens=64)
    prompts = [[start, *PROMPT] for start in range(8)]
    run(engine, *(ask(prompt, max_tokens=1) for prompt in prompts))
    passes = count_passes(engine, monkeypatch)
    again = run(engine, *(ask([*prompt, *range(7)], max_tokens=1) for prompt in prompts))
    assert [each.prompt_cache_hit_tokens for each in again] == [41] * 8
    assert passes == [[8, 7]]
    alone = [
        run(make_engine(), ask([*prompt, *range(7)], max_tokens=1, temperature=0.0))[0]
        for prompt in prompts
    ]
    greedy = run(
        engine, *(ask([*prompt, *range(7)], max_tokens=1, temperature=0.0) for prompt in prompts)
    )
    for one, other in zip(greedy, alone, strict=True):
        assert only(one).tokens.tolist() == only(other).tokens.tolist()
        np.testing.assert_allclose(only(one).logprobs, only(other).logprobs, atol=1e-4)
