"""What shares a batch must not show: adapters, joining and leaving, poisoned neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.service.sampling.harness import (
    MODEL,
    LoadPolicy,
    MakeEngine,
    MakePolicy,
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
from tuft.contracts.operations import SampleOperation
from tuft.contracts.wire import SampledSequence, SampleResult
from tuft.errors import DamagedCheckpoint, InvalidRequest
from tuft.modeling.adapters import WEIGHTS_FILE
from tuft.modeling.tensor_files import read_safetensors
from tuft.sampling.engine import Engine
from tuft.sampling.runner import DecodeRow, segments_of
from tuft.sampling.transformers_engine import TransformersEngine

PROMPT = [5, 17, 300, 42]


def same(one: SampledSequence, other: SampledSequence) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.stop_reason == other.stop_reason
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_two_adapters_and_the_base_in_one_batch_equal_each_alone(
    engine: Engine, plain: Any, make_policy: MakePolicy, load_policy: LoadPolicy
) -> None:
    files = [make_policy(1, rank=4), make_policy(2, rank=7, train_attn=False)]
    policies: dict[str | None, dict[str, bytes] | None] = {None: None}
    policies.update({load_policy(each): each for each in files})
    _, a, b = policies
    # Interleaved, of two lengths: neither the arrival nor the cache is sorted by policy.
    requests = [
        ask(prompt, policy=policy, seed=seed, num_samples=2, max_tokens=12)
        for seed, prompt in enumerate((PROMPT, list(range(70))))
        for policy in (b, None, a, b)
    ]
    together = run(engine, *requests)
    for request, result in zip(requests, together, strict=True):
        alone = run(engine, request)[0]
        for one, other in zip(result.sequences, alone.sequences, strict=True):
            same(one, other)
            expected = reference_logprobs(
                plain, request.prompt, one.tokens.tolist(), policies[request.policy]
            )
            np.testing.assert_allclose(one.logprobs, expected, atol=1e-4)
    texts = {tuple(r.sequences[0].tokens.tolist()) for r in together[:3]}
    assert len(texts) == 3, "the policies do not differ enough to prove anything"


@transformers_only
def test_rows_of_a_policy_are_one_segment(
    engine: TransformersEngine, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("ab"):
        engine.load_policy(name, policy_files(plain, seed=seed))
    segments: list[int] = []
    decode = engine._runner.decode

    def watched(rows: Sequence[DecodeRow]) -> torch.Tensor:
        segments.append(len(segments_of([row.adapter for row in rows])))
        return decode(rows)

    monkeypatch.setattr(engine._runner, "decode", watched)
    for number, policy in enumerate(["b", None, "a", "b", "a", None]):
        engine.submit(ask([number + 1] * 5, policy=policy, max_tokens=20))
        engine.step()
    drain(engine)
    assert max(segments) == 3


def test_joining_midway_changes_nothing_for_the_others(engine: Engine) -> None:
    first = [ask(PROMPT, seed=1, max_tokens=200), ask([7] * 30, seed=2, max_tokens=200)]
    late = [ask([9, 8, 7], seed=3, max_tokens=5), ask([1] * 50, seed=4, max_tokens=25)]
    alone = [run(engine, request)[0] for request in (*first, *late)]
    outcomes: dict[str, Any] = {}
    for request in first:
        engine.submit(request)
    for request in late:
        for _ in range(7):
            outcomes |= {each.request_id: each.outcome for each in engine.step()}
        assert engine.load >= 2, "the first ones should still run"
        engine.submit(request)
    outcomes |= drain(engine)
    for request, expected in zip((*first, *late), alone, strict=True):
        same(only(result_of(outcomes[request.request_id])), only(expected))


def test_short_request_overtakes_a_long_one(engine: Engine) -> None:
    long, short = ask(PROMPT, max_tokens=200), ask(PROMPT, max_tokens=2)
    engine.submit(long)
    engine.step()
    engine.submit(short)
    finished: list[str] = []
    while not finished:
        finished = [each.request_id for each in engine.step()]
    assert finished == [short.request_id]
    assert engine.load == 1


@transformers_only
def test_short_prompts_go_between_the_pieces_of_a_long_one(make_engine: MakeEngine) -> None:
    engine = make_engine(prefill_tokens=10)
    long, short = ask(list(range(200)), max_tokens=1), [ask([n] * 9, max_tokens=1) for n in (1, 2)]
    for request in (long, *short):
        engine.submit(request)
    finished = [[each.request_id for each in engine.step()] for _ in range(22)]
    assert [(index, ids) for index, ids in enumerate(finished) if ids] == [
        (1, [short[0].request_id]),
        (3, [short[1].request_id]),
        (21, [long.request_id]),
    ]


def test_seed_gives_the_same_tokens_and_samples_differ(engine: Engine) -> None:
    request = ask(PROMPT, seed=11, num_samples=6, max_tokens=10)
    one = run(engine, request)[0]
    crowd = [ask([3, 4, 5], max_tokens=30), request, ask([8] * 9, num_samples=5)]
    other = run(engine, *crowd)[1]
    for a, b in zip(one.sequences, other.sequences, strict=True):
        same(a, b)
    assert len({tuple(each.tokens.tolist()) for each in one.sequences}) == 6
    fewer = run(engine, ask(PROMPT, seed=11, num_samples=2, max_tokens=10))[0]
    same(fewer.sequences[1], one.sequences[1])
    without = [run(engine, ask(PROMPT, max_tokens=10))[0] for _ in range(2)]
    assert only(without[0]).tokens.tolist() != only(without[1]).tokens.tolist()


def test_more_samples_than_places_are_served(engine: Engine) -> None:
    request = ask(PROMPT, seed=5, num_samples=3 * engine.capacity, max_tokens=6)
    result = run(engine, request)[0]
    few = run(engine, ask(PROMPT, seed=5, num_samples=4, max_tokens=6))[0]
    assert len(result.sequences) == 3 * engine.capacity
    for one, other in zip(result.sequences, few.sequences, strict=False):
        same(one, other)


@transformers_only
def test_a_prompt_is_read_once_for_all_its_samples(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_passes(engine, monkeypatch)
    result = run(engine, ask([6] * 100, num_samples=16, max_tokens=3))[0]
    assert len(result.sequences) == 16
    assert passes == [[1, 100], [16, 1], [16, 1]]


@transformers_only
def test_more_samples_than_places_wait_their_turn(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=3)
    request = ask(PROMPT, seed=5, num_samples=10, max_tokens=6)
    engine.submit(request)
    outcomes: dict[str, Any] = {}
    while engine.load:
        outcomes |= {each.request_id: each.outcome for each in engine.step()}
        assert len(engine._running) <= 3
    expected = run(make_engine(max_sequences=16), request)[0]
    for one, other in zip(
        result_of(outcomes[request.request_id]).sequences, expected.sequences, strict=True
    ):
        same(one, other)


@transformers_only
def test_cache_budget_is_kept_and_one_sequence_always_runs(make_engine: MakeEngine) -> None:
    engine = make_engine(max_cells=256)
    small = [ask(PROMPT, max_tokens=50, num_samples=3), ask(PROMPT, max_tokens=50, num_samples=3)]
    large = ask(PROMPT, max_tokens=252)
    for request in (*small, large):
        engine.submit(request)
    seen = 0
    while engine.load:
        engine.step()
        seen = max(seen, engine._cells)
        assert engine._cells <= 256
    assert seen == 256
    assert (engine._cells, list(engine._cache.slabs)) == (0, [])


@transformers_only
def test_scoring_goes_on_while_the_batch_is_full(make_engine: MakeEngine) -> None:
    engine = make_engine(max_sequences=1)
    long, waiting = ask(PROMPT, max_tokens=100), ask(PROMPT, max_tokens=100)
    score = ask(PROMPT, max_tokens=1, prompt_logprobs=True)
    for request in (long, waiting, score):
        engine.submit(request)
    finished = [each.request_id for _ in range(5) for each in engine.step()]
    assert finished == [score.request_id]


def poisoned(files: dict[str, bytes], value: float) -> dict[str, bytes]:
    tensors, metadata = read_safetensors(files[WEIGHTS_FILE])
    for name, tensor in tensors.items():
        if "k_proj" in name or "v_proj" in name:
            tensor.fill_(value)
    return {**files, WEIGHTS_FILE: save(tensors, metadata=metadata)}


def without_a_layer(files: dict[str, bytes]) -> dict[str, bytes]:
    tensors, metadata = read_safetensors(files[WEIGHTS_FILE])
    del tensors[next(iter(tensors))]
    return {**files, WEIGHTS_FILE: save(tensors, metadata=metadata)}


def drain_one(engine: Engine, request: SampleOperation) -> object:
    engine.submit(request)
    return drain(engine)[request.request_id]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_a_diverged_policy_fails_alone(
    engine: Engine, make_policy: MakePolicy, load_policy: LoadPolicy, value: float
) -> None:
    """Also where it is only the products that are not finite."""
    good = [ask(PROMPT, seed=1, max_tokens=200), ask([7] * 90, seed=1, max_tokens=100)]
    expected = run(engine, *good)
    bad = ask(PROMPT, policy=load_policy(poisoned(make_policy(1), value)), num_samples=5)
    for request in (bad, good[0]):
        engine.submit(request)
    outcomes = drain(engine)
    error = outcomes[bad.request_id]
    assert isinstance(error, InvalidRequest)
    assert f"policy {bad.policy}" in error.message
    same(only(result_of(outcomes[good[0].request_id])), only(expected[0]))
    # Who gets its place in the cache reads nothing of it; and it does not come to look well.
    assert isinstance(drain_one(engine, bad), InvalidRequest)
    for result, before in zip(run(engine, *good), expected, strict=True):
        same(only(result), only(before))


@transformers_only
def test_a_row_that_diverges_while_it_runs_leaves_no_trace(
    make_engine: MakeEngine, plain: Any
) -> None:
    """Its cache rows are infinite when it ends; who gets its place must not read them."""
    engine = make_engine()
    engine.load_policy("p", policy_files(plain, seed=1))
    bad = ask(PROMPT, policy="p", num_samples=3, max_tokens=50)
    mate = ask(PROMPT, seed=1, max_tokens=30)
    after = [ask([4, 5], seed=seed, max_tokens=30) for seed in range(4)]
    expected = [run(make_engine(), request)[0] for request in (mate, *after)]
    engine.submit(bad)
    engine.submit(mate)
    engine.step()
    adapter = engine._policies["p"]
    with torch.no_grad():
        for name, parameter in adapter.tensors().items():
            if "v_proj" in name or "k_proj" in name:
                parameter.fill_(float("inf"))
    outcomes = {each.request_id: each.outcome for each in engine.step()}
    assert isinstance(outcomes[bad.request_id], InvalidRequest)
    for slab in engine._cache.slabs:
        for tensor in (*slab.keys, *slab.values):
            assert bool(torch.isfinite(tensor).all())
    for request in after:
        engine.submit(request)
    outcomes |= drain(engine)
    for request, result in zip((mate, *after), expected, strict=True):
        same(only(result_of(outcomes[request.request_id])), only(result))


def test_dropped_policy_is_finished_with(engine: Engine, make_policy: MakePolicy) -> None:
    files, others = make_policy(1), make_policy(2)
    engine.load_policy("dropped", files)
    request = ask(PROMPT, policy="dropped", seed=1, max_tokens=100)
    expected: SampleResult = run(engine, request)[0]
    engine.submit(request)
    engine.step()
    engine.drop_policy("dropped")
    # Another one of that name is another one.
    engine.load_policy("dropped", others)
    other = ask(PROMPT, policy="dropped", seed=1, max_tokens=100)
    engine.submit(other)
    outcomes = drain(engine)
    engine.drop_policy("dropped")
    same(only(result_of(outcomes[request.request_id])), only(expected))
    changed = only(result_of(outcomes[other.request_id]))
    assert changed.tokens.tolist() != only(expected).tokens.tolist()


def test_files_that_are_no_policy_of_this_model(engine: Engine, make_policy: MakePolicy) -> None:
    files = make_policy(1)
    for damaged in ({**files, WEIGHTS_FILE: b"torn"}, without_a_layer(files)):
        with pytest.raises(DamagedCheckpoint):
            engine.load_policy("damaged", damaged)
    assert engine.load == 0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask([]), "prompt is empty"),
        (ask([1] * 257), "257 tokens; tiny takes at most 256"),
        (ask([1, 512]), "token 512; tokens of tiny are 0 to 511"),
        (ask([1, -3]), "token -3"),
    ],
)
def test_what_the_model_cannot_take_is_refused(
    engine: Engine, request_: SampleOperation, message: str
) -> None:
    assert request_.base_model == MODEL
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(request_)
    assert engine.load == 0
