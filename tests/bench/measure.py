"""How benchmarks measure and report: actions turn about, medians, ratios within one run.

A shared machine slows everything by some factor that changes with time, so absolute numbers say
little: what is compared is done in turn, round after round, and the medians are divided.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

Clock = Callable[[], dict[str, float]]
"""CPU seconds so far, by process."""

REPORT_VARIABLE = "TUFT_BENCH_REPORT"
"""Names a file that rows of the table are appended to, one JSON object a line."""


@dataclass(frozen=True)
class Turn:
    """An action; `clock` reads the CPU time of the processes that do its work."""

    action: Callable[[], object]
    clock: Clock


@dataclass(frozen=True)
class Cost:
    """Medians over the rounds, in seconds: wall-clock, CPU in all, and CPU by process."""

    wall: float
    cpu: float
    by_process: Mapping[str, float]


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of all threads of a process so far, user and system."""
    if sys.platform == "linux":
        # The clock of clock_getcpuclockid(3): /proc counts in steps of 10 ms.
        return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return times.user + times.system


def own_clock() -> dict[str, float]:
    """CPU time of this process."""
    return {"bench": time.process_time()}


def here(action: Callable[[], object]) -> Turn:
    """An action that this process does by itself."""
    return Turn(action, own_clock)


def in_turn(
    turns: Mapping[str, Turn], rounds: int, *, times: int = 1, warm: bool = True
) -> dict[str, Cost]:
    """Do all actions, each `times` times, in each of `rounds` rounds.

    Costs are those of doing an action once. With `warm`, an unmeasured round goes before.
    """
    seen: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in turns}
    for _ in range(rounds + warm):
        for name, turn in turns.items():
            cpu, begun = turn.clock(), time.perf_counter()
            for _ in range(times):
                turn.action()
            wall = time.perf_counter() - begun
            after = turn.clock()
            used = {who: (after[who] - cpu[who]) / times for who in cpu}
            seen[name].append((wall / times, used))
    return {name: _cost(measured[warm:]) for name, measured in seen.items()}


def _cost(measured: list[tuple[float, dict[str, float]]]) -> Cost:
    return Cost(
        wall=median(wall for wall, _ in measured),
        cpu=median(sum(cpu.values()) for _, cpu in measured),
        by_process={who: median(cpu[who] for _, cpu in measured) for who in measured[0][1]},
    )


def report(what: str, sense: Literal[">=", "<="], reach: float, measured: float) -> None:
    """Print a row of the table, and append it to the file that `make bench` collects."""
    fits = measured >= reach if sense == ">=" else measured <= reach
    row = {"what": what, "reach": f"{sense} {reach:g}", "measured": measured, "reached": fits}
    print(line(row), flush=True)
    if REPORT_VARIABLE in os.environ:
        with Path(os.environ[REPORT_VARIABLE]).open("a") as file:
            file.write(json.dumps(row) + "\n")


def line(row: Mapping[str, object]) -> str:
    """A row as text."""
    mark = "reached" if row["reached"] else "NOT REACHED"
    return f"{row['what']:<74} {row['reach']:>8} {row['measured']:>8.2f}  {mark}"
