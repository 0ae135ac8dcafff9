"""What trainer and sampler get done together on the same cores, beside what each does alone.

The share of a side is its work in some seconds beside the other, over its work in as many seconds
alone; the sum of both shares is 1 where nothing is lost. With libgomp's own setting a thread spins
for others of its process that have no core, and keeps the core from them: `tuft` sets GOMP_SPINCOUNT.
Each side has as many threads as there are cores. The whole service, with the real SDK.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tinker import types

from tests.bench.bare import random_rows
from tests.bench.measure import report
from tests.bench.stage import TIMEOUT_S, Model, Stage, datums, models, stage, training_step

_VARIABLE = "GOMP_SPINCOUNT"
# What libgomp does where nothing is set.
_ITS_OWN = "300000"
_REACH = 0.9
_SEQUENCES, _NEW_TOKENS = 16, 8


def shares(model: Model, seconds: float, spin_count: str | None) -> float:
    """The sum of both; `spin_count` None: as `tuft` sets it."""
    threads = {"threads": os.cpu_count() or 1}
    with _variable(spin_count), stage(model, trainer=threads, sampler=threads) as on:
        sides = {"trainer": _trainer(on), "sampler": _sampler(on)}
        for work in sides.values():
            work()
        alone = {name: _done({name: work}, seconds)[name] for name, work in sides.items()}
        both = _done(sides, seconds)
    got = {name: both[name] / alone[name] for name in sides}
    print(
        f"  {_VARIABLE} {spin_count or 'as tuft sets it'}: "
        + ", ".join(f"{name} {share:.2f}" for name, share in got.items())
    )
    return sum(got.values())


@contextmanager
def _variable(value: str | None) -> Iterator[None]:
    before = os.environ.pop(_VARIABLE, None)
    if value is not None:
        os.environ[_VARIABLE] = value
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)
        if before is not None:
            os.environ[_VARIABLE] = before


def _trainer(on: Stage) -> Callable[[], None]:
    [client] = on.training_clients()
    return training_step(client, datums(random_rows([64] * 4, on.model.vocab)))


def _sampler(on: Stage) -> Callable[[], None]:
    client = on.clients[0].create_sampling_client(base_model=on.model.name)
    params = types.SamplingParams(max_tokens=_NEW_TOKENS, temperature=1.0, stop=[])

    def sample() -> None:
        rows = random_rows([32] * _SEQUENCES, on.model.vocab)
        prompts = [types.ModelInput.from_ints(list(row)) for row in rows]
        sent = [client.sample(prompt, num_samples=1, sampling_params=params) for prompt in prompts]
        for future in sent:
            future.result(TIMEOUT_S)

    return sample


def _done(sides: Mapping[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """How often a second each could be done, all at the same time."""
    end = time.perf_counter() + seconds
    found: dict[str, float] = {}

    def repeat(name: str, work: Callable[[], None]) -> None:
        begun, times = time.perf_counter(), 0
        while time.perf_counter() < end:
            work()
            times += 1
        found[name] = times / (time.perf_counter() - begun)

    threads = [threading.Thread(target=repeat, args=side) for side in sides.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        [model] = models(Path(folder), ["SmolLM2"])
        theirs = shares(model, options.seconds, _ITS_OWN)
        ours = shares(model, options.seconds, None)
    print(f"  both together, of what one does alone: {ours:.2f}; with libgomp's own {theirs:.2f}")
    report(
        "trainer and sampler on the same cores, SmolLM2: sum of their shares", ">=", _REACH, ours
    )


if __name__ == "__main__":
    main()
