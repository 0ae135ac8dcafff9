"""`python -m tests.faults`: the fault campaign (`make faults FAULTS_ARGS="…"`).

It kills processes of a real service under real clients: at every fault point, and at random. It
prints what it did and found, writes that to a file, and ends with 1 where anything was lost,
applied twice, changed, or an error for a client.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from tests.faults.campaign import Round, Tally, Tenants
from tests.faults.points import POINTS, RANK_POINTS
from tests.faults.tree import Tree, tree
from tests.helpers.s3_server import S3Server, run_s3_server

_ROUND_S = 75.0
"""Kills at points go on for so long; then the runs are compared, and others begin."""
_RANDOM_A_ROUND = 12


class Campaign:
    """Rounds until every point has had its kills, or the time is over."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._rng = random.Random(arguments.seed)
        self._points = POINTS + (RANK_POINTS if arguments.ranks > 1 else ())
        self._wanted = {
            point: arguments.kills
            for point in self._points
            if any(fnmatch.fnmatch(point, pattern) for pattern in arguments.points)
        }
        for file in arguments.after:
            for point, count in json.loads(file.read_text())["kills"].items():
                if point in self._wanted:
                    self._wanted[point] -= count
        self._random_left = arguments.random
        self._begun = time.monotonic()
        self.tally = Tally(say=self._say)
        self.rounds = 0
        self._passed: set[str] = set()

    def run(self, service: Tree, reference: Tree) -> None:
        """Rounds with one tenant and with several, in turns."""
        while not self._is_over():
            tenants: Tenants = "one" if self.rounds % 2 == 0 else "several"
            if self._arguments.tenants:
                tenants = self._arguments.tenants
            self.rounds += 1
            seed = self._rng.randrange(1 << 30)
            self._say(f"round {self.rounds}, {tenants} tenant(s), seed {seed}")
            each = Round(service, reference, tenants, seed, self.tally)
            each.begin()
            left = {point: n for point, n in self._wanted.items() if n > 0}
            if left:
                each.point_kills(left, _ROUND_S)
                self._wanted |= left
            if self._random_left > 0 and (not left or self.rounds % 3 == 0):
                before = self.tally.random_kills
                each.random_kills(min(_RANDOM_A_ROUND, self._random_left))
                self._random_left -= self.tally.random_kills - before
            each.end()
            assert service.faults is not None
            self._passed |= service.faults.passed()
            self._write()

    def summary(self) -> dict[str, Any]:
        """The figures."""
        tally = self.tally
        times = sorted(second for all_of in tally.recovery_s.values() for second in all_of)
        kills = {point: tally.kills[point] for point in self._wanted}
        return {
            "seed": self._arguments.seed,
            "minutes": round((time.monotonic() - self._begun) / 60, 1),
            "rounds": self.rounds,
            "point_kills": tally.point_kills,
            "random_kills": tally.random_kills,
            "points": len(kills),
            "fewest_kills_of_a_point": min(kills.values(), default=0),
            "points_without_a_kill": [point for point, n in kills.items() if n == 0],
            "points_that_are_not_listed": sorted(self._passed - set(self._points)),
            "operations": tally.operations,
            "optim_steps": tally.optim_steps,
            "results_compared": tally.results_compared,
            "runs_compared": tally.runs_compared,
            "largest_difference": tally.largest_difference,
            "newcomers": tally.newcomers,
            "ledger_steps": tally.ledger_steps,
            "median_s_until_answered": times[len(times) // 2] if times else None,
            "longest_s_until_answered": times[-1] if times else None,
            "failures": tally.failures,
            "kills": dict(sorted(tally.kills.items())),
        }

    def _is_over(self) -> bool:
        done = self._random_left <= 0 and not any(self._wanted.values())
        if not done and self._stuck():
            self._say("the points that are left are not reached; see the summary")
            done = True
        return done or self.tally.over.is_set() or bool(self.tally.failures)

    def _stuck(self) -> bool:
        """Whether what is left was waited for in vain in several rounds."""
        left = [point for point, count in self._wanted.items() if count > 0]
        return self._random_left <= 0 and all(self.tally.unreached[point] >= 6 for point in left)

    def _say(self, text: str) -> None:
        minutes = (time.monotonic() - self._begun) / 60
        print(f"{minutes:6.1f} min  {text}", flush=True)

    def _write(self) -> None:
        if self._arguments.summary is not None:
            self._arguments.summary.write_text(json.dumps(self.summary(), indent=1) + "\n")


def main(words: Sequence[str] | None = None) -> int:
    """Run a campaign; 1 where it found something."""
    arguments = _parser().parse_args(words)
    # An operation of the SDK that is old, and served.
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("tinker").setLevel(logging.CRITICAL)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = Path(arguments.folder or tempfile.mkdtemp(prefix="tuft-faults-"))
    campaign = Campaign(arguments)
    _end_in_order(campaign.tally.over, arguments.minutes)
    with ExitStack() as stack:
        model = _model(folder / "model")
        trainer = {"ranks": arguments.ranks}
        places: list[dict[str, Any]] = [{}, {}]
        if arguments.s3:
            (folder / "s3").mkdir()
            server = stack.enter_context(run_s3_server(folder / "s3"))
            places = [{"object_store": _bucket(server, name)} for name in ("service", "reference")]
        service = stack.enter_context(
            tree(
                folder / "service",
                model,
                fork=arguments.fork,
                trainer={**trainer, "standby": arguments.standby},
                sampler={"standby": arguments.standby},
                **places[0],
            )
        )
        reference = stack.enter_context(
            tree(folder / "reference", model, faults=False, trainer=trainer, **places[1])
        )
        campaign.run(service, reference)
    summary = campaign.summary()
    print(json.dumps(summary, indent=1))
    if summary["failures"]:
        print(f"FAILED; logs and state are in {folder}")
        return 1
    if arguments.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _end_in_order(over: threading.Event, minutes: float | None) -> None:
    """After so many minutes, or on the first Ctrl-C; a second one ends at once."""
    if minutes is not None:
        timer = threading.Timer(minutes * 60, over.set)
        timer.daemon = True
        timer.start()

    def stop(number: int, frame: FrameType | None) -> None:
        if over.is_set():
            signal.default_int_handler(number, frame)
        over.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, stop)


def _model(folder: Path) -> Path:
    from tests.helpers.tiny_model import build_tiny_model

    return folder if folder.is_dir() else build_tiny_model(folder)


def _bucket(server: S3Server, prefix: str) -> dict[str, Any]:
    return server.config(prefix=prefix).model_dump(mode="json", exclude_none=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="repeats clients and choices")
    parser.add_argument("--kills", type=int, default=20, help="at each point (%(default)s)")
    parser.add_argument(
        "--points", nargs="+", default=["*"], help="patterns of points, such as 'trainer.*'"
    )
    parser.add_argument(
        "--random", type=int, default=200, help="kills at random moments (%(default)s)"
    )
    parser.add_argument(
        "--after",
        type=Path,
        nargs="+",
        default=[],
        metavar="SUMMARY",
        help="go on after earlier runs: their kills count",
    )
    parser.add_argument("--minutes", type=float, help="no more kills after so many minutes")
    parser.add_argument("--tenants", choices=["one", "several"], help="instead of both in turns")
    parser.add_argument("--standby", action="store_true", help="with standby workers")
    parser.add_argument(
        "--fork",
        action="store_true",
        help="workers are forked from a process that has imported everything: many times faster",
    )
    parser.add_argument("--ranks", type=int, default=1, help="of the trainer (%(default)s)")
    parser.add_argument(
        "--s3", action="store_true", help="objects in an S3 server, not in a folder"
    )
    parser.add_argument("--summary", type=Path, help="write the figures to this file as well")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
