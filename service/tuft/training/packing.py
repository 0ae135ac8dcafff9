"""Which rows are computed together: a fair share for every tenant, and full micro-batches.

Deficit round robin with the smallest quantum there is, a token: instead of turning the ring
until someone's deficit pays for its next row, the one who is furthest behind is served. Within
a tenant its runs share in the same way, and within an operation the longest rows go first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

PATIENCE = 8
"""A row that was due and did not fit so many times goes before all others."""
_PASSES_A_BUDGET = 4
"""An empty pass costs about what a fourth of a full one's tokens do."""


@dataclass(frozen=True)
class Portion:
    """Rows of one run in a micro-batch, as indices into what was added."""

    run_id: str
    rows: list[int]


class FairTurns:
    """Who was served least, among those that want something; tokens are what is counted.

    Who comes anew goes before the one furthest behind. What it got more than others before is
    not forgotten; what others got while it was away, it may claim up to `claim` tokens: who
    sends one operation after another is away for a moment after each.
    """

    def __init__(self, claim: int = 0) -> None:
        self._claim = claim
        self._served: dict[str, int] = {}
        self._entered: dict[str, int] = {}
        self._floor = 0
        self._count = 0

    def __contains__(self, key: str) -> bool:
        return key in self._entered

    def enter(self, key: str) -> None:
        """It wants to be served."""
        if key in self._entered:
            return
        self._raise_floor()
        self._served[key] = self._level(key)
        self._count += 1
        self._entered[key] = self._count

    def leave(self, key: str) -> None:
        """It wants nothing more for now."""
        del self._entered[key]
        if not self._entered:
            # Nobody waited for what anyone got.
            self._served.clear()
            self._floor = 0
            return
        self._raise_floor()
        for gone in [k for k in self._served if k not in self._entered]:
            if self._served[gone] <= self._floor - self._claim:
                del self._served[gone]

    def goes_first(self, key: str) -> bool:
        """Whether it would be the next if it entered now."""
        least = min((self._served[other] for other in self._entered), default=self._floor)
        return key not in self._entered and self._level(key) <= least

    def charge(self, key: str, tokens: int) -> None:
        """It was served."""
        self._served[key] += tokens

    def order(self) -> list[str]:
        """Those that want to be served, the one furthest behind first."""
        return sorted(self._entered, key=lambda key: (self._served[key], -self._entered[key]))

    def _level(self, key: str) -> int:
        return max(self._served.get(key, 0), self._floor - self._claim)

    def _raise_floor(self) -> None:
        if self._entered:
            self._floor = max(self._floor, min(self._served[key] for key in self._entered))


@dataclass
class _Waiting:
    """Rows of an operation that wait, ascending by length; of equal ones the first is last."""

    tenant: str
    rows: list[int]
    lengths: list[int]
    alone: bool
    passed_over: int = 0


class _Space:
    """Ranks that are filled with rows: each next one goes where most space is left."""

    def __init__(self, budget: int, ranks: int) -> None:
        self._budget = budget
        self._loads = [0] * ranks
        self.portions: list[dict[str, list[int]]] = [{} for _ in range(ranks)]
        self.blocked: set[str] = set()
        """Runs whose longest row did not fit."""
        self.passed_over: set[str] = set()
        """Those of them after which rows of others were taken."""
        self.is_taken = False
        """By a run that wants to be alone."""

    def has_empty_rank(self) -> bool:
        return min(self._loads) == 0

    def is_only(self, run_id: str) -> bool:
        """Whether there are no rows but this run's."""
        return all(portions.keys() <= {run_id} for portions in self.portions)

    def fits(self, lengths: Sequence[int]) -> int:
        """Index of the longest of ascending `lengths` that fits, -1 where none does.

        A rank without rows takes any one row, also one over the budget.
        """
        load = min(self._loads)
        if load == 0:
            return len(lengths) - 1
        return bisect_right(lengths, self._budget - load) - 1

    def put(self, run_id: str, row: int, length: int) -> None:
        rank = self._loads.index(min(self._loads))
        self._loads[rank] += max(length, 1)
        self.portions[rank].setdefault(run_id, []).append(row)


class Pool:
    """Rows that wait to be computed; a run has one operation in it at a time.

    With one run in it, what it gives is a function of lengths, budget and ranks only, so that
    a replay computes what the first time did.
    """

    def __init__(self, claim: int = 0) -> None:
        """`claim`: see FairTurns."""
        self._claim = claim
        self._waiting: dict[str, _Waiting] = {}
        self._tenants = FairTurns(claim)
        self._runs: dict[str, FairTurns] = {}

    def __len__(self) -> int:
        """Runs with rows."""
        return len(self._waiting)

    def run_ids(self) -> list[str]:
        return list(self._waiting)

    @property
    def tokens(self) -> int:
        return sum(sum(waiting.lengths) for waiting in self._waiting.values())

    def goes_first(self, tenant: str) -> bool:
        """Whether this tenant, which has no rows here, would be the next if it had."""
        return self._tenants.goes_first(tenant)

    def add(self, run_id: str, tenant: str, lengths: Sequence[int], *, alone: bool = False) -> None:
        """Rows of a run's operation, by their `lengths` in tokens.

        `alone`: never in one micro-batch with rows of other runs.
        """
        if run_id in self._waiting:
            raise ValueError(f"{run_id} has rows in the pool already")
        if lengths:
            self._enter(run_id, tenant, dict(enumerate(lengths)), alone)

    def put_back(self, run_id: str, tenant: str, rows: Mapping[int, int]) -> None:
        """Rows that were taken have to be computed again (index: length), alone from now on."""
        if (waiting := self._waiting.pop(run_id, None)) is not None:
            rows = {**rows, **dict(zip(waiting.rows, waiting.lengths, strict=True))}
        self._enter(run_id, tenant, rows, alone=True)

    def remove(self, run_id: str) -> None:
        """Forget what is left of a run's rows; nothing happens where there are none."""
        waiting = self._waiting.pop(run_id, None)
        if waiting is None:
            return
        runs = self._runs[waiting.tenant]
        runs.leave(run_id)
        if not any(w.tenant == waiting.tenant for w in self._waiting.values()):
            self._tenants.leave(waiting.tenant)
            del self._runs[waiting.tenant]

    def take(self, budget: int, ranks: int) -> list[list[Portion]]:
        """One micro-batch a rank of at most `budget` tokens each; a row over it goes alone.

        Rows are taken as long as any fits. The ranks' token counts are about the same.
        """
        space = _Space(budget, ranks)
        full: set[str] = set()
        while (run_id := self._next(full)) is not None:
            if not self._take_row(run_id, space):
                full.add(run_id)
        return [
            [Portion(run_id, rows) for run_id, rows in portions.items()]
            for portions in space.portions
        ]

    def _next(self, full: set[str]) -> str | None:
        """Whose turn it is, of the runs that are not `full`."""
        overdue = [r for r, w in self._waiting.items() if w.passed_over >= PATIENCE]
        overdue.sort(key=lambda run_id: -self._waiting[run_id].passed_over)
        due = (r for tenant in self._tenants.order() for r in self._runs[tenant].order())
        return next((r for r in chain(overdue, due) if r not in full), None)

    def _take_row(self, run_id: str, space: _Space) -> bool:
        """Move the run's longest row that fits into `space`; False where none does."""
        waiting = self._waiting[run_id]
        longest = len(waiting.rows) - 1
        index = space.fits(waiting.lengths)
        if (waiting.alone or space.is_taken) and not space.is_only(run_id):
            index = -1
        if index < longest:
            space.blocked.add(run_id)
        if index < 0:
            return False
        row, length = waiting.rows.pop(index), waiting.lengths.pop(index)
        # A pass has a price of its own, whatever is in it: who begins one pays it.
        price = length + (self._claim // _PASSES_A_BUDGET if space.has_empty_rank() else 0)
        space.put(run_id, row, length)
        space.is_taken = waiting.alone
        self._note_passing(run_id, space)
        if index == longest:
            waiting.passed_over = 0
        self._tenants.charge(waiting.tenant, price)
        self._runs[waiting.tenant].charge(run_id, price)
        if not waiting.rows:
            self.remove(run_id)
        return True

    def _note_passing(self, run_id: str, space: _Space) -> None:
        """A row of this run was taken where others' did not fit, though it was their turn."""
        for other in space.blocked - space.passed_over - {run_id}:
            space.passed_over.add(other)
            self._waiting[other].passed_over += 1

    def _enter(self, run_id: str, tenant: str, lengths: Mapping[int, int], alone: bool) -> None:
        rows = sorted(lengths, key=lambda row: (lengths[row], -row))
        self._waiting[run_id] = _Waiting(tenant, rows, [lengths[row] for row in rows], alone)
        self._tenants.enter(tenant)
        self._runs.setdefault(tenant, FairTurns(self._claim)).enter(run_id)
