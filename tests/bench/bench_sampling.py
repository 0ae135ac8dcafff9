"""Tokens per second of sampling, beside transformers' `generate` with the same batch.

First the transformers engine alone, in one process with `generate`; then the whole service, with
concurrent requests by the real SDK. Ragged prompts are padded for `generate`; the engine pads
nothing while it decodes. With adapters, requests on several LoRA policies are mixed in a batch.
Turn about, all on the same machine: on a shared one the ratio of CPU times is the better one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import tinker
import torch
from tinker import types
from transformers import AutoModelForCausalLM

from tests.bench.bare import random_rows
from tests.bench.measure import Turn, here, in_turn, report
from tests.bench.stage import TIMEOUT_S, Stage, datums, models, stage
from tests.service.sampling.harness import ask, policy_files, run
from tuft.demo_model import demo_model
from tuft.modeling.loading import describe_model, load_base
from tuft.sampling.transformers_engine import TransformersEngine
from tuft.supervisor.tree import prepare

POLICIES, REQUESTS = 4, 16
NEW_TOKENS = 32


def prompts(number: int, lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Random prompts with the given lengths in turn."""
    generator = random.Random(seed)
    return [
        [generator.randrange(1000, 40000) for _ in range(lengths[i % len(lengths)])]
        for i in range(number)
    ]


def make_engine(dtype: str) -> TransformersEngine:
    config = demo_model()
    model = load_base(prepare(config), dtype, "cpu")
    engine = TransformersEngine(
        model, describe_model(model, config), None, max_sequences=64, max_cells=1 << 18
    )
    for number in range(POLICIES):
        engine.load_policy(f"policy-{number}", policy_files(model, number, rank=8))
    return engine


def by_engine(engine: TransformersEngine, batch: list[list[int]], policies: int) -> None:
    requests = [
        ask(
            prompt,
            max_tokens=NEW_TOKENS,
            policy=f"policy-{index % policies}" if policies else None,
        )
        for index, prompt in enumerate(batch)
    ]
    for result in run(engine, *requests):
        assert len(result.sequences[0].tokens) == NEW_TOKENS


def by_generate(model: Any, batch: list[list[int]]) -> None:
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
    out = model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert out.shape[1] == longest + NEW_TOKENS


def by_service(clients: Sequence[tinker.SamplingClient], batch: list[list[int]]) -> None:
    params = types.SamplingParams(max_tokens=NEW_TOKENS, temperature=1.0, stop=[])
    sent = [
        clients[index % len(clients)].sample(
            types.ModelInput.from_ints(prompt), num_samples=1, sampling_params=params
        )
        for index, prompt in enumerate(batch)
    ]
    for future in sent:
        assert len(future.result(TIMEOUT_S).sequences[0].tokens) == NEW_TOKENS


def adapters(on: Stage) -> list[tinker.SamplingClient]:
    """Clients of policies that differ from the base model, and from each other."""
    data = datums(random_rows([16], on.model.vocab))
    clients: list[tinker.SamplingClient] = []
    for number in range(POLICIES):
        training = (
            on.clients[0].create_lora_training_client(on.model.name, rank=8).result(TIMEOUT_S)
        )
        sent = training.forward_backward(data, "cross_entropy")
        training.optim_step(types.AdamParams(learning_rate=1e-4 * (number + 1))).result(TIMEOUT_S)
        sent.result(TIMEOUT_S)
        clients.append(training.save_weights_and_get_sampling_client().result(TIMEOUT_S))
    return clients


def with_new_prompts(
    action: Callable[[list[list[int]]], object], number: int, lengths: Sequence[int]
) -> Callable[[], object]:
    """`action` on prompts of its own each time, since the engine remembers what it has read."""
    seeds = count()
    return lambda: action(prompts(number, lengths, next(seeds)))


def compare_engine(plain: Any, dtype: str, rounds: int) -> None:
    engine = make_engine(dtype)
    print(
        f"{'engine alone':<24}{'engine':>9}{'generate':>9}   tokens/s {'ratio':>9}{'CPU ratio':>11}"
    )
    cases: list[tuple[str, list[int], int, int]] = [
        ("1 sequence", [32], 1, 0),
        ("16 sequences", [32], REQUESTS, 0),
        ("16 ragged (8-256)", [8, 16, 32, 256], REQUESTS, 0),
        ("16, 4 adapters mixed", [32], REQUESTS, POLICIES),
    ]
    for name, lengths, number, policies in cases:
        turns = {
            "engine": lambda batch: by_engine(engine, batch, policies),  # noqa: B023
            "generate": lambda batch: by_generate(plain, batch),
        }
        costs = in_turn(
            {who: here(with_new_prompts(do, number, lengths)) for who, do in turns.items()}, rounds
        )
        ours, theirs = costs["engine"], costs["generate"]
        tokens = number * NEW_TOKENS
        print(
            f"{name:<24}{tokens / ours.wall:>9.1f}{tokens / theirs.wall:>9.1f}"
            f"{theirs.wall / ours.wall:>21.2f}{theirs.cpu / ours.cpu:>11.2f}",
            flush=True,
        )


def compare_service(plain: Any, dtype: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        [model] = models(Path(folder), ["SmolLM2"])
        threads = {"threads": torch.get_num_threads()}
        with stage(model, dtype=dtype, trainer=threads, sampler=threads) as on:
            base = [on.clients[0].create_sampling_client(base_model=model.name).result(TIMEOUT_S)]
            mixed = adapters(on)

            def turn(clients: Sequence[tinker.SamplingClient]) -> Turn:
                ask_all = with_new_prompts(lambda b: by_service(clients, b), REQUESTS, [32])
                return Turn(ask_all, on.clock)

            generate = here(with_new_prompts(lambda b: by_generate(plain, b), REQUESTS, [32]))
            turns = {"base": turn(base), "generate": generate, "4 adapters": turn(mixed)}
            costs = in_turn(turns, rounds)
    print(f"{REQUESTS} concurrent requests over HTTP")
    tokens = REQUESTS * NEW_TOKENS
    for name, cost in costs.items():
        print(
            f"  {name:<12}{tokens / cost.wall:8.1f} tokens/s, {tokens / cost.cpu:8.1f} tokens/CPU s"
        )
    base_cost, plain_cost, mixed_cost = costs["base"], costs["generate"], costs["4 adapters"]
    what = "16 requests over HTTP, base model / generate"
    report(f"{what}, wall", ">=", 0.9, plain_cost.wall / base_cost.wall)
    report(f"{what}, CPU", ">=", 0.9, plain_cost.cpu / base_cost.cpu)
    what = "16 requests over HTTP, 4 adapters mixed / base model"
    report(f"{what}, wall", ">=", 0.75, base_cost.wall / mixed_cost.wall)
    report(f"{what}, CPU", ">=", 0.75, base_cost.cpu / mixed_cost.cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    plain = AutoModelForCausalLM.from_pretrained(
        prepare(demo_model()), dtype=getattr(torch, options.dtype)
    ).eval()
    print(f"{options.dtype}, {torch.get_num_threads()} threads, {NEW_TOKENS} new tokens a sequence")
    compare_engine(plain, options.dtype, options.rounds)
    compare_service(plain, options.dtype, options.rounds)


if __name__ == "__main__":
    main()
