"""The failed tasks that records tell of, and which of them come next.

A task is in the store from an iteration on in which half of its episodes or more failed. It leaves
when it was `solved` times in a row played with less than that, when it was replayed `tries` times
in vain, when nothing was heard of it for `max_age` iterations, or when `size` others are ahead.

Which come next is drawn, with weights as in prioritized level replay (Jiang et al., arXiv
2010.03934, §3): shares of two sums, of how much of it failed, and of how long ago it was played.
The draw without putting back is that of Efraimidis and Spirakis (2006), and its random numbers
follow from the seed, the iteration and the task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

from tuft_components.replay.records import TaskKey, TaskRecord

FAILED = 0.5
"""Share of failed episodes from which a task is a failed one."""

_AGE = 0.1
"""The share of age in the weights; prioritized level replay has 0.1 as well."""


@dataclass(frozen=True)
class Bounds:
    """When a task leaves the store; see above."""

    solved: int = 2
    tries: int = 16
    size: int = 256
    max_age: int = 64


@dataclass(frozen=True)
class Entry:
    """`last` is the record of its last play, `failure` of its last failure, and `tries` how often
    it was replayed since it is in the store."""

    last: TaskRecord
    failure: TaskRecord
    tries: int = 0
    solved: int = 0


class Store:
    def __init__(self, entries: Mapping[TaskKey, Entry], now: int) -> None:
        self.entries = dict(entries)
        self._now = now

    @classmethod
    def of(cls, records: Iterable[TaskRecord], now: int, bounds: Bounds) -> Store:
        """From records in order, as they are known before iteration `now`."""
        entries: dict[TaskKey, Entry] = {}
        for record in records:
            before = entries.pop(record.key, None)
            after = _after(before, record)
            if after is not None and after.solved < bounds.solved:
                entries[record.key] = after
        left = {key: one for key, one in entries.items() if one.tries < bounds.tries}
        store = cls(left, now)
        return store if len(left) <= bounds.size else cls(store._best(bounds.size), now)

    def draw(self, count: int, seed: int) -> list[Entry]:
        """Up to `count` different ones."""
        weights = self._weights()

        def waits(key: TaskKey) -> float:
            return -log(_uniform(seed, self._now, key)) / weights[key]

        return [self.entries[key] for key in sorted(weights, key=lambda k: (waits(k), k))[:count]]

    def _best(self, size: int) -> dict[TaskKey, Entry]:
        weights = self._weights()
        kept = sorted(weights, key=lambda key: (-weights[key], key))[:size]
        return {key: self.entries[key] for key in kept}

    def _weights(self) -> dict[TaskKey, float]:
        """Of one that was solved in part, what failed of it; never 0."""
        failed = {key: max(0.05, one.last.failed_share) for key, one in self.entries.items()}
        ages = {key: max(1, self._now - one.last.iteration) for key, one in self.entries.items()}
        all_failed, all_ages = sum(failed.values()), sum(ages.values())
        return {
            key: (1 - _AGE) * failed[key] / all_failed + _AGE * ages[key] / all_ages
            for key in self.entries
        }


def _after(before: Entry | None, record: TaskRecord) -> Entry | None:
    tries = (before.tries if before else 0) + bool(record.replay)
    if record.failed_share >= FAILED:
        return Entry(record, record, tries)
    if before is None:
        return None
    return Entry(record, before.failure, tries, before.solved + 1)


def _uniform(seed: int, now: int, key: TaskKey) -> float:
    """In (0, 1)."""
    digest = hashlib.sha256(repr((seed, now, key)).encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 1) / (2**48 + 1)
