"""Rows of many runs through the ranks, a micro-batch at a time; failures stay with their owner."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tuft.contracts.wire import LossConfig, Row
from tuft.errors import TuftError
from tuft.training import commands
from tuft.training.budget import Budget
from tuft.training.commands import RowGroup, RowResult
from tuft.training.group import RankFailure, RankGroup
from tuft.training.packing import Pool, Portion

log = logging.getLogger(__name__)

Answers = Sequence[RowResult | None]
"""A result a row; None for those that were not computed, since another one is not finite."""


class InDoubt(Exception):
    """A micro-batch with rows of several runs failed: which gradients were added is unknown.

    The run has to be rebuilt, and its operation done again, alone.
    """


@dataclass(frozen=True)
class Rows:
    """Rows of one operation that have to be computed.

    `alone`: not together with rows of other runs.
    """

    run_id: str
    tenant: str
    rows: Sequence[Row]
    loss_fn: str
    loss_config: LossConfig
    backward: bool
    alone: bool = False


@dataclass
class _Work:
    rows: Rows
    left: int
    answers: list[RowResult | None]
    is_bad: bool = False
    """A row is not finite, also alone: the operation fails, whatever the rest would give."""

    def lengths(self, rows: Sequence[int]) -> dict[int, int]:
        return {row: len(self.rows.rows[row].tokens) for row in rows}


@dataclass
class Computing:
    """What runs want computed, a micro-batch at a time."""

    group: RankGroup
    budget: Budget
    last_s: float = 0.0
    """Seconds that the last micro-batch took."""
    _work: dict[str, _Work] = field(default_factory=dict)
    _pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self._pool = Pool(claim=self.budget.shared)

    def add(self, rows: Rows) -> None:
        """The rows of a run's operation, at least one."""
        work = _Work(rows, len(rows.rows), [None] * len(rows.rows))
        self._work[rows.run_id] = work
        lengths = [len(row.tokens) for row in rows.rows]
        self._pool.add(rows.run_id, rows.tenant, lengths, alone=rows.alone)

    def __len__(self) -> int:
        """Runs whose rows are not all computed."""
        return len(self._work)

    def would_take(self, tenant: str) -> bool:
        """Whether rows of this tenant, were they here, would be in the next micro-batch."""
        has_room = self._pool.tokens < self.budget.shared * self.group.size
        return has_room or self._pool.goes_first(tenant)

    def micro_batch(self) -> dict[str, Answers | Exception]:
        """Compute one micro-batch a rank.

        Returns:
            By run id, the answers of operations that are through, or why they failed: InDoubt,
            or what the ranks raised over rows of that run alone.
        """
        tokens = self.budget.tokens(self._work, time.monotonic())
        taken = self._pool.take(tokens, self.group.size)
        runs = {portion.run_id for portions in taken for portion in portions}
        batches = [[self._row_group(portion) for portion in portions] for portions in taken]
        begun = time.monotonic()
        try:
            answers = self.group.call(commands.Compute([batch or None for batch in batches]))
        except (TuftError, RankFailure) as error:
            return self._isolate(taken, runs, error)
        self.last_s = time.monotonic() - begun
        for portions, results in zip(taken, answers, strict=True):
            assert isinstance(results, list)
            self._note(portions, results)
        through = sorted(run_id for run_id in runs if self._is_through(self._work[run_id]))
        return {run_id: self._work.pop(run_id).answers for run_id in through}

    @staticmethod
    def _is_through(work: _Work) -> bool:
        return work.is_bad or work.left == 0

    def _row_group(self, portion: Portion) -> RowGroup:
        rows = self._work[portion.run_id].rows
        return RowGroup(
            run_id=rows.run_id,
            rows=[rows.rows[row] for row in portion.rows],
            loss_fn=rows.loss_fn,
            loss_config=rows.loss_config,
            backward=rows.backward,
        )

    def _note(self, portions: Sequence[Portion], results: Sequence[RowResult]) -> None:
        """Take over what one rank gave."""
        start = 0
        for portion in portions:
            work = self._work[portion.run_id]
            mine = results[start : start + len(portion.rows)]
            start += len(portion.rows)
            finite = all(math.isfinite(result.loss) for result in mine)
            if work.is_bad:
                continue
            if not finite and len(portions) > 1:
                # Its neighbours might have to do with it, and none of it added a gradient.
                log.warning("rows of %s are not finite; again, alone", portion.run_id)
                tenant = work.rows.tenant
                self._pool.put_back(portion.run_id, tenant, work.lengths(portion.rows))
                continue
            for row, result in zip(portion.rows, mine, strict=True):
                work.answers[row] = result
            work.left -= len(portion.rows)
            if not finite:
                self._pool.remove(portion.run_id)
                work.is_bad = True

    def _isolate(
        self, taken: Sequence[Sequence[Portion]], runs: set[str], error: Exception
    ) -> dict[str, Answers | Exception]:
        if len(runs) == 1:
            (run_id,) = runs
            self._forget(run_id)
            return {run_id: error}
        log.warning("a micro-batch of %d runs failed, each is done alone: %s", len(runs), error)
        outcomes: dict[str, Answers | Exception] = {}
        for portion in (portion for portions in taken for portion in portions):
            run_id = portion.run_id
            if run_id in outcomes:
                continue
            work = self._work[run_id]
            if work.rows.backward:
                self._forget(run_id)
                outcomes[run_id] = InDoubt(str(error))
            else:
                self._pool.put_back(run_id, work.rows.tenant, work.lengths(portion.rows))
        return outcomes

    def _forget(self, run_id: str) -> None:
        self._pool.remove(run_id)
        del self._work[run_id]
