"""Tokens per second of the sampler's transformers engine, beside transformers' `generate`.

Same model, same prompts, same number of tokens, one process, turn about: the ratio is what
counts, and on a shared machine that of the CPU times. Ragged prompts are padded for `generate`; the engine pads nothing while it decodes.
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


def prompts(count: int, lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Random prompts with the given lengths in turn."""
    generator = random.Random(seed)
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
    print(f"{'case':<24}{'engine':>9}{'generate':>9}   tokens/s {'ratio':>9}{'CPU ratio':>11}")
    cases: list[tuple[str, list[int], int, int]] = [
        ("1 sequence", [32], 1, 0),
        ("16 sequences", [32], 16, 0),
        ("16 ragged (8-256)", [8, 16, 32, 256], 16, 0),
        ("16, 4 adapters mixed", [32], 16, 4),
    ]
    for name, lengths, count, policies in cases:
        turns: list[Callable[[int], None]] = [
            lambda seed: by_engine(engine, prompts(count, lengths, seed), policies),  # noqa: B023
            lambda seed: by_generate(plain, prompts(count, lengths, seed)),  # noqa: B023
        ]
        (wall, cpu), (wall_2, cpu_2) = _medians(turns, options.repeats)
        tokens = count * NEW_TOKENS
        print(
            f"{name:<24}{tokens / wall:>9.1f}{tokens / wall_2:>9.1f}"
            f"{wall_2 / wall:>21.2f}{cpu_2 / cpu:>11.2f}",
            flush=True,
        )


def _medians(turns: Sequence[Callable[[int], None]], repeats: int) -> list[tuple[float, float]]:
    """Median seconds (wall, CPU) of each, turn about, after one unmeasured round.

    Every round has prompts of its own, since the engine remembers those it has read.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in turns]
    for seed in range(repeats + 1):
        for turn, measured in zip(turns, times, strict=True):
            begun = time.perf_counter(), time.process_time()
            turn(seed)
            measured.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return [(median(t[0] for t in m[1:]), median(t[1] for t in m[1:])) for m in times]


if __name__ == "__main__":
    main()
