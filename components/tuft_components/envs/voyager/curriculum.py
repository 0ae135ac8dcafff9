"""The curriculum: which task comes next, by what was solved and what failed.

The graph is data: each task names those that come before it. A task is open when all of these are
solved. Among the open ones, one that failed less often comes first; so a task that is too hard
steps back and comes again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tuft_components import artifacts
from tuft_components.envs.voyager.tasks import TaskKind
from tuft_components.errors import BadData

ENOUGH = 0.75
"""The share of attempts that must be solved, of all at one time, for a task to count as solved."""


@dataclass
class Progress:
    """What is solved, and how often tasks failed."""

    solved: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, uri: str) -> Progress:
        """Raises:
        BadData: it is not there, or something else. TransientFailure: the object store is away.
        """
        data = artifacts.read_bytes(uri)
        try:
            values = json.loads(data)
            failed = {str(name): int(times) for name, times in values["failed"].items()}
            return cls([str(name) for name in values["solved"]], failed)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadData(f"{uri} is no progress of a curriculum: {error!r}") from error

    def save(self, uri: str) -> None:
        values = {"solved": self.solved, "failed": self.failed}
        artifacts.write_bytes(uri, json.dumps(values, indent=1).encode())

    def record(self, outcomes: Mapping[str, Sequence[bool]]) -> None:
        """Attempts by task, whether each was solved: `info["task"]` and `info["solved"]` of the
        last turns of a rollout's episodes."""
        for name, attempts in outcomes.items():
            if not attempts:
                continue
            if sum(attempts) >= ENOUGH * len(attempts):
                if name not in self.solved:
                    self.solved.append(name)
            else:
                self.failed[name] = self.failed.get(name, 0) + 1


def check_graph(tasks: Mapping[str, TaskKind]) -> None:
    """Raises:
    ValueError: a task that comes before is not there, or tasks wait for each other.
    """
    for name, task in tasks.items():
        unknown = [each for each in task.needs if each not in tasks]
        if unknown:
            raise ValueError(f"task {name} needs {', '.join(unknown)}, which is not there")
    done: set[str] = set()
    while len(done) < len(tasks):
        more = {name for name in set(tasks) - done if set(tasks[name].needs) <= done}
        if not more:
            raise ValueError(f"tasks wait for each other: {', '.join(sorted(set(tasks) - done))}")
        done |= more


def next_tasks(tasks: Mapping[str, TaskKind], progress: Progress, count: int = 1) -> list[str]:
    """The open tasks to try next; where all are solved, the last ones again."""
    solved = set(progress.solved)
    order = list(tasks)
    open_ = [
        name for name in order if name not in solved and set(tasks[name].needs) <= solved
    ] or order[::-1]
    open_.sort(key=lambda name: progress.failed.get(name, 0))
    return open_[:count]
