"""Latency of a light tenant (1x16 tokens) beside a heavy one (32x128), and alone.

The heavy tenant always has work waiting. The light one sends a forward_backward, waits for its
result, and sends the next.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import tinker

from tests.bench.bare import random_rows
from tests.bench.measure import report
from tests.bench.stage import TIMEOUT_S, Model, datums, models, stage

REACH = 4.0


def latencies(action: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return seconds


def beside(action: Callable[[], object], heavy: tinker.TrainingClient, vocab: int) -> list[float]:
    """Latencies of `action` for as long as the heavy tenant's operations take."""
    data = datums(random_rows([128] * 32, vocab))
    sent = [heavy.forward_backward(data, "cross_entropy") for _ in range(2)]
    # The first of the heavy ones must be under way.
    action()
    seconds = []
    while not sent[1].future().done():
        seconds += latencies(action, 1)
    for future in sent:
        future.result(TIMEOUT_S)
    # The last began beside the heavy tenant and may have ended alone.
    return seconds[:-1] or seconds


def measure(model: Model, rounds: int) -> None:
    with stage(model, tenants=2) as on:
        light, heavy = on.training_clients()
        data = datums(random_rows([16], model.vocab))

        def action() -> None:
            light.forward_backward(data, "cross_entropy").result(TIMEOUT_S)

        latencies(action, 3)
        alone: list[float] = []
        together: list[float] = []
        for _ in range(rounds):
            alone += latencies(action, 10)
            together += beside(action, heavy, model.vocab)
        alone += latencies(action, 10)
    print(f"{model.name}, milliseconds of a forward_backward of 1x16 tokens")
    for name, seconds in (("alone", alone), ("beside 32x128", together)):
        tail = 1000 * quantiles(seconds, n=20)[-1]
        middle = 1000 * median(seconds)
        print(f"  {name:<14} median {middle:8.1f}, 95% {tail:8.1f}, {len(seconds)} calls")
    ratio = median(together) / median(alone)
    report(
        f"light tenant beside a heavy one, median latency / alone, {model.name}", "<=", REACH, ratio
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=["tiny", "SmolLM2"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in models(Path(folder), options.models):
            measure(model, options.rounds)


if __name__ == "__main__":
    main()
