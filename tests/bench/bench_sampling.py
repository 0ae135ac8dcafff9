"""Tokens per second of the sampler's transformers engine, beside transformers' `generate`.

Same model, same prompts, same number of tokens, one process, turn about: the ratio is what
counts. Ragged prompts are padded for `generate`; the engine pads nothing while it decodes.
With adapters, rows of several LoRA policies are mixed in the engine's batch.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.service.sampling.harness import ask, policy_files, run
from tuft.demo_model import demo_model
from tuft.modeling.loading import describe_model, load_base
from tuft.sampling.transformers_engine import TransformersEngine
from tuft.supervisor.tree import prepare

NEW_TOKENS = 32


def prompts(count: int, lengths: Sequence[int]) -> list[list[int]]:
    """Random prompts with the given lengths in turn."""
    generator = random.Random(0)
    return [
        [generator.randrange(1000, 40000) for _ in range(lengths[i % len(lengths)])]
        for i in range(count)
    ]


def make_engine(dtype: str) -> TransformersEngine:
    config = demo_model()
    model = load_base(prepare(config), dtype, "cpu")
    engine = TransformersEngine(
        model, describe_model(model, config), None, max_sequences=64, max_cells=1 << 18
    )
    for number in range(4):
        engine.load_policy(f"policy-{number}", policy_files(model, number, rank=8))
    return engine


def engine_seconds(engine: TransformersEngine, batch: list[list[int]], policies: int) -> float:
    requests = [
        ask(
            prompt,
            max_tokens=NEW_TOKENS,
            policy=f"policy-{index % policies}" if policies else None,
        )
        for index, prompt in enumerate(batch)
    ]
    begun = time.perf_counter()
    for result in run(engine, *requests):
        assert len(result.sequences[0].tokens) == NEW_TOKENS
    return time.perf_counter() - begun


def generate_seconds(model: Any, batch: list[list[int]]) -> float:
    longest = max(map(len, batch))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
    begun = time.perf_counter()
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
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    engine = make_engine(options.dtype)
    plain = AutoModelForCausalLM.from_pretrained(
        prepare(demo_model()), dtype=getattr(torch, options.dtype)
    ).eval()
    print(f"{options.dtype}, {torch.get_num_threads()} threads, {NEW_TOKENS} new tokens a row")
    print(f"{'case':<28}{'engine':>10}{'generate':>10}{'ratio':>8}   (tokens/s)")
    cases: list[tuple[str, list[list[int]], int]] = [
        ("1 sequence", prompts(1, [32]), 0),
        ("16 sequences", prompts(16, [32]), 0),
        ("16 ragged (8-256)", prompts(16, [8, 16, 32, 256]), 0),
        ("16, 4 adapters mixed", prompts(16, [32]), 4),
    ]
    for name, batch, policies in cases:
        ours = _alternate(engine, plain, batch, policies, options.repeats)
        tokens = len(batch) * NEW_TOKENS
        mine, theirs = tokens / ours[0], tokens / ours[1]
        print(f"{name:<28}{mine:>10.1f}{theirs:>10.1f}{mine / theirs:>8.2f}", flush=True)


def _alternate(
    engine: TransformersEngine,
    plain: Any,
    batch: list[list[int]],
    policies: int,
    repeats: int,
) -> tuple[float, float]:
    """Median seconds of both, after one unmeasured turn."""
    both: list[Callable[[], float]] = [
        lambda: engine_seconds(engine, batch, policies),
        lambda: generate_seconds(plain, batch),
    ]
    times = [[each() for each in both] for _ in range(repeats + 1)][1:]
    return median(t[0] for t in times), median(t[1] for t in times)


if __name__ == "__main__":
    main()
