"""The campaign: rounds of clients under faults, each followed by its verdict."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.clients import Client, Newcomer, Stepper, Trainee
from tests.faults.moves import SaveState
from tests.faults.points import (
    is_at_start,
    is_at_stop,
    needs_several,
    point_before,
    reach_s,
    role_of,
)
from tests.faults.tree import KEYS, Faults, Tree
from tests.faults.verdict import FINAL, Results, differing, largest_difference, miscounted, repeat
from tests.waiting import wait_until

Tenants = Literal["one", "several"]
PROGRESS_S = 240.0
"""Within this time after a kill, all that was under way must be answered."""
_RANDOM = ("api", "trainer", "sampler", "store", "supervisor", "everything")
_RANDOM_WEIGHTS = (4, 6, 4, 4, 1, 1)
_WORKERS = ("api", "trainer", "sampler")
_SHARE_OF_STOPS = 0.15
"""Of these processes' ends: asked for, as in an upgrade."""
_KINDS = {signal.SIGKILL: "random", signal.SIGTERM: "stop of"}


@dataclass
class Tally:
    """What was done and found."""

    kills: Counter[str] = field(default_factory=Counter)
    """By point, by `random {role}`, or by `stop of {role}`, which is a SIGTERM."""
    operations: int = 0
    optim_steps: int = 0
    results_compared: int = 0
    runs_compared: int = 0
    largest_difference: dict[Tenants, float] = field(default_factory=dict)
    """Of final weights to those of the undisturbed run, as a part of a tensor's norm."""
    newcomers: int = 0
    ledger_steps: int = 0
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    """By what was killed: from a kill until all that was under way was answered."""
    unreached: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda _: None
    over: threading.Event = field(default_factory=threading.Event)
    """No more kills: what has begun is finished and judged."""

    def recovered(self, killed: str, seconds: float) -> None:
        self.recovery_s.setdefault(killed, []).append(seconds)
        self.say(f"killed {killed}; all that was under way is answered after {seconds:.1f} s")

    @property
    def point_kills(self) -> int:
        return sum(n for name, n in self.kills.items() if " " not in name)

    @property
    def random_kills(self) -> int:
        return sum(n for name, n in self.kills.items() if name.startswith("random "))


class Round:
    """Clients at work on one service, kills, and the verdict.

    Args:
        service: with fault points.
        reference: another one that is never disturbed, where the runs are repeated.
    """

    def __init__(
        self, service: Tree, reference: Tree, tenants: Tenants, seed: int, tally: Tally
    ) -> None:
        assert service.faults is not None
        self._service = service
        self._faults: Faults = service.faults
        self._reference = reference
        self._tenants = tenants
        self._tally = tally
        self.rng = random.Random(seed)
        url = service.url
        self._trainees = [Trainee(url, KEYS["alice"], self.rng.randrange(1 << 30))]
        self._others: list[Client] = []
        if tenants == "several":
            self._trainees.append(Trainee(url, KEYS["bob"], self.rng.randrange(1 << 30)))
            self._others.append(Newcomer(url, KEYS["carol"], self.rng.randrange(1 << 30)))
            self._others.append(Stepper(url, KEYS["dave"], self.rng.randrange(1 << 30)))
        self._results = [Results(url, trainee.key) for trainee in self._trainees]

    @property
    def clients(self) -> list[Client]:
        return [*self._trainees, *self._others]

    def begin(self) -> None:
        for client in self.clients:
            client.start()
        wait_until(
            lambda: self._failed() or all(client.progress.answered > 0 for client in self.clients),
            PROGRESS_S,
            "the clients' first results",
        )

    def point_kills(self, wanted: dict[str, int], seconds: float) -> None:
        """Kill at points: those of each role one after the other, roles at the same time.

        `wanted`: kills still to be done, by point; it is counted down.
        """
        roles = sorted({role_of(point) for point in wanted})
        with ThreadPoolExecutor(len(roles)) as lanes:
            seeds = [self.rng.randrange(1 << 30) for _ in roles]
            for lane in [
                lanes.submit(self._lane, role, wanted, seconds, random.Random(seed))
                for role, seed in zip(roles, seeds, strict=True)
            ]:
                lane.result()

    def random_kills(self, count: int) -> None:
        """Kill processes at random moments, sometimes another one before the first is back."""
        done = 0
        while done < count and not self._ends():
            time.sleep(self.rng.uniform(0.0, 1.5))
            killed = [self._kill()]
            if self.rng.random() < 0.3:
                time.sleep(self.rng.uniform(0.0, 4.0))
                killed.append(self._kill())
            self._service.revive()
            self._wait_for_progress("+".join(filter(None, killed)))
            done += len(killed)

    def end(self) -> None:
        """Have the clients end, and add the verdict to the tally."""
        self._faults.disarm_all()
        self._service.revive()
        for client in self.clients:
            client.end()
        for client in self.clients:
            client.join(PROGRESS_S)
        self._tally.failures += [c.failure for c in self.clients if c.failure is not None]
        for trainee, results in zip(self._trainees, self._results, strict=True):
            if trainee.failure is None and trainee.journal is not None:
                self._judge(trainee, results)
            results.close()
        for other in self._others:
            if isinstance(other, Newcomer):
                self._tally.newcomers += other.iterations
            else:
                self._tally.ledger_steps += other.iterations

    def _lane(self, role: str, wanted: dict[str, int], seconds: float, rng: random.Random) -> None:
        tried: set[str] = set()
        over_at = time.monotonic() + seconds
        while time.monotonic() < over_at and not self._ends():
            left = [
                point
                for point, count in wanted.items()
                if role_of(point) == role
                and count > 0
                and point not in tried
                and (self._tenants == "several" or not needs_several(point))
            ]
            if not left:
                return
            most = max(wanted[point] for point in left)
            point = rng.choice([point for point in left if wanted[point] == most])
            if self._kill_at(point):
                wanted[point] -= 1
            else:
                tried.add(point)
                self._tally.unreached[point] += 1

    def _kill_at(self, point: str) -> bool:
        """Whether a process came there and died of it."""
        role = role_of(point)
        self._faults.arm(point)
        if is_at_start(point):
            self._service.kill(role)
        elif is_at_stop(point):
            self._service.kill(role, how=signal.SIGTERM)
        if (earlier := point_before(point)) is not None:
            self._faults.arm(earlier)
        self._fires(point)
        if earlier is not None:
            self._faults.disarm(earlier)
        if self._faults.disarm(point):
            return False
        self._tally.kills[point] += 1
        self._wait_for_progress(point)
        return True

    def _fires(self, point: str) -> bool:
        """Whether a process comes there in a while."""
        give_up_at = time.monotonic() + reach_s(point)
        while self._faults.is_armed(point) and not self._ends() and time.monotonic() < give_up_at:
            time.sleep(0.02)
        return not self._faults.is_armed(point)

    def _kill(self) -> str:
        """End a process; which one, or nothing where there is none."""
        (role,) = self.rng.choices(_RANDOM, _RANDOM_WEIGHTS)
        how = signal.SIGKILL
        if role in _WORKERS and self.rng.random() < _SHARE_OF_STOPS:
            how = signal.SIGTERM
        if not self._service.kill(role, self.rng.randrange(8), how):
            return ""
        self._tally.kills[f"{_KINDS[how]} {role}"] += 1
        return role

    def _wait_for_progress(self, killed: str) -> None:
        """Until all is answered that is under way now: D6 fails what is killed again and again."""
        begun = time.monotonic()
        targets = [(client.progress, client.progress.asked) for client in self.clients]
        try:
            wait_until(
                lambda: (
                    self._failed()
                    or all(progress.answered >= target for progress, target in targets)
                ),
                PROGRESS_S,
            )
        except AssertionError:
            late = [f"{progress.answered} of {target}" for progress, target in targets]
            self._tally.failures.append(f"after a kill of {killed}, no progress: {late}")
            return
        self._tally.recovered(killed, time.monotonic() - begun)
        self._look_at_results()

    def _look_at_results(self) -> None:
        for trainee, results in zip(self._trainees, self._results, strict=True):
            if trainee.journal is not None:
                seq_ids = [record.seq_id for record in list(trainee.journal.records)]
                run_id = trainee.journal.training.model_id
                self._tally.failures += results.look(run_id, seq_ids[-20:])

    def _ends(self) -> bool:
        return self._failed() or self._tally.over.is_set()

    def _failed(self) -> bool:
        return bool(self._tally.failures) or any(client.failure for client in self.clients)

    def _judge(self, trainee: Trainee, results: Results) -> None:
        journal = trainee.journal
        assert journal is not None
        run_id = journal.training.model_id
        self._tally.failures += miscounted(journal)
        self._tally.optim_steps += sum(record.step is not None for record in journal.records)
        self._tally.operations += journal.seq_id
        seq_ids = [record.seq_id for record in journal.records]
        self._tally.failures += results.look(run_id, seq_ids, again=True)
        self._tally.results_compared += len(results)
        journal.do(SaveState(FINAL))
        again = repeat(self._reference.url, trainee.key, trainee.seed, journal)
        exact = self._tenants == "one"
        places = self._service.objects, self._reference.objects
        for difference in differing(journal, again, *places, exact=exact):
            self._tally.failures.append(f"{run_id} ({self._tenants}): {difference}")
        self._tally.runs_compared += 1
        largest = self._tally.largest_difference
        off = largest_difference(journal, again, *places)
        largest[self._tenants] = max(off, largest.get(self._tenants, 0.0))
