"""From kill -9 of a worker to the first operation served by its successor.

A step, or a token, is asked for right after the kill. Without a standby the successor has to be
started; with one it is loaded already. The trainer's successor also rebuilds the run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import psutil
from tinker import types

from tests.bench.bare import random_rows
from tests.bench.measure import report
from tests.bench.stage import TIMEOUT_S, Model, Stage, datums, models, stage, training_step
from tests.waiting import wait_until

REACH_S = {False: 8.0, True: 2.0}
_MODULES = {"trainer": "tuft.training", "sampler": "tuft.sampling"}
# Younger ones are not started again at once: they may be failing at their start.
_AGE_S = 6.0


def _processes(on: Stage, role: str) -> dict[str, psutil.Process]:
    """By seat."""
    found = {}
    for child in psutil.Process(on.service.process.pid).children():
        if child.status() != psutil.STATUS_ZOMBIE and _MODULES[role] in child.cmdline():
            found[child.environ()["TUFT_SEAT"]] = child
    return found


def _has_standby(on: Stage, role: str, deaths: int) -> bool:
    """Whether one waits to take over, again after so many deaths."""
    logs = on.service.log_dir.glob(f"{role}-*.log")
    return sum(log.read_text().count("waiting to take over") for log in logs) > deaths


def _is_old_enough(on: Stage, role: str) -> bool:
    return all(time.time() - p.create_time() > _AGE_S for p in _processes(on, role).values())


def recovery_s(on: Stage, role: str, serve: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round; the workers of the two seats are killed in turn."""
    standby = len(_processes(on, role)) > 1
    taken = []
    for turn in range(rounds):
        serve()
        if standby:
            wait_until(partial(_has_standby, on, role, turn), TIMEOUT_S)
        wait_until(lambda: _is_old_enough(on, role), TIMEOUT_S)
        process = _processes(on, role)["12"[turn % 2] if standby else "1"]
        begun = time.perf_counter()
        process.kill()
        serve()
        taken.append(time.perf_counter() - begun)
    return taken


def measure(model: Model, standby: bool, rounds: int) -> None:
    """Print all rounds, and report the median."""
    with stage(model, trainer={"standby": standby}, sampler={"standby": standby}) as on:
        (training,) = on.training_clients()
        sampler = on.clients[0].create_sampling_client(base_model=model.name).result(TIMEOUT_S)
        prompt = types.ModelInput.from_ints([1, 2, 3, 4])
        params = types.SamplingParams(max_tokens=1, temperature=1.0)

        def sample() -> None:
            sampler.sample(prompt, num_samples=1, sampling_params=params).result(TIMEOUT_S)

        work = {
            "trainer": training_step(training, datums(random_rows([32], model.vocab))),
            "sampler": sample,
        }
        if standby:
            for role in work:
                wait_until(partial(_has_standby, on, role, 0), TIMEOUT_S)
        for role, serve in work.items():
            taken = recovery_s(on, role, serve, rounds)
            print(
                f"{role}, standby {standby}: {', '.join(f'{seconds:.2f}' for seconds in taken)} s"
            )
            beside = "a standby" if standby else "no standby"
            what = f"{role} killed, {beside}: first operation served after, s, {model.name}"
            report(what, "<=", REACH_S[standby], median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        [model] = models(Path(folder), ["SmolLM2"])
        for standby in (False, True):
            measure(model, standby, options.rounds)


if __name__ == "__main__":
    main()
