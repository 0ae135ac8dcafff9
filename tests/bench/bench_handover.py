"""From the end of an optim_step to the first token sampled with the new weights.

Twice in turn: by `save_weights_and_get_sampling_client`, where the policy goes from trainer to
sampler by a file of the machine, and by a named checkpoint, which goes through the object store.
What one decode step takes is measured beside, and subtracted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import tinker
from tinker import types

from tests.bench.bare import random_rows
from tests.bench.measure import report
from tests.bench.stage import TIMEOUT_S, Model, datums, models, stage

REACH_MS = 150.0
_PROMPT_TOKENS, _DECODED = 8, 16
_numbers = count(100)


def first_token(sampler: tinker.SamplingClient, tokens: int = 1) -> None:
    """Sample from a prompt that the sampler has not read before."""
    prompt = types.ModelInput.from_ints([next(_numbers) % 500] * _PROMPT_TOKENS)
    params = types.SamplingParams(max_tokens=tokens, temperature=1.0, stop=[])
    sampler.sample(prompt, num_samples=1, sampling_params=params).result(TIMEOUT_S)


def seconds(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def measure(model: Model, rank: int, rounds: int) -> None:
    """Print medians, and their difference to a decode step."""
    times: dict[str, list[float]] = {"file": [], "object store": [], "decode step": []}
    with stage(model) as on:
        service = on.clients[0]
        training = service.create_lora_training_client(model.name, rank=rank).result(TIMEOUT_S)
        data = datums(random_rows([16], model.vocab))

        def step() -> None:
            training.forward_backward(data, "cross_entropy").result(TIMEOUT_S)
            training.optim_step(types.AdamParams(learning_rate=1e-5)).result(TIMEOUT_S)

        def by_file() -> None:
            first_token(training.save_weights_and_get_sampling_client().result(TIMEOUT_S))

        def by_object_store() -> None:
            name = f"policy-{next(_numbers)}"
            path = training.save_weights_for_sampler(name).result(TIMEOUT_S).path
            first_token(service.create_sampling_client(path).result(TIMEOUT_S))

        warm = service.create_sampling_client(base_model=model.name).result(TIMEOUT_S)
        for _ in range(rounds + 1):
            step()
            times["file"].append(seconds(by_file))
            step()
            times["object store"].append(seconds(by_object_store))
            one = seconds(lambda: first_token(warm))
            many = seconds(lambda: first_token(warm, 1 + _DECODED))
            times["decode step"].append((many - one) / _DECODED)
    medians = {name: 1000 * median(seen[1:]) for name, seen in times.items()}
    print(f"{model.name}, LoRA rank {rank}: optim_step done -> first token, ms, {rounds} rounds")
    for name, taken in medians.items():
        print(f"  {name:<14}{taken:8.1f}")
    print(f"  object store / file {medians['object store'] / medians['file']:.2f}")
    beyond = medians["file"] - medians["decode step"]
    report(
        f"new weights' first token beyond a decode step, ms, {model.name}, rank {rank}",
        "<=",
        REACH_MS,
        beyond,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        [model] = models(Path(folder), ["SmolLM2"])
        for rank in options.ranks:
            measure(model, rank, options.rounds)


if __name__ == "__main__":
    main()
