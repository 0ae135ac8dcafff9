"""From judged trajectories to what is remembered of their tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from tuft_components.errors import BadConfiguration
from tuft_components.replay.attempts import attempt_of
from tuft_components.replay.records import TaskRecord, write_records
from tuft_components.replay.store import FAILED
from tuft_components.steps import Metrics
from tuft_components.trajectories import Trajectory

_ROUNDING = 1e-6
"""Rewards of turns are stored as float32: 0.7 + 0.2 + 0.1 is a little less than 1 there."""


@dataclass(frozen=True)
class _Group:
    """The episodes of one task in one iteration, and their rewards."""

    episodes: Sequence[Trajectory]
    rewards: npt.NDArray[np.float64]

    def record(self, below: float) -> TaskRecord:
        first = self.episodes[0].transitions[0]
        failed = self.rewards < below - _ROUNDING
        worst = self.episodes[int(np.argmin(self.rewards))]
        return TaskRecord(
            iteration=first.iteration,
            env=first.env,
            env_args=json.dumps(first.task["env_args"], sort_keys=True),
            split=first.task["split"],
            seed=first.task["seed"],
            index=first.task["index"],
            replay=first.task.get("replay", ""),
            episodes=len(self.episodes),
            failed=int(failed.sum()),
            mean_reward=float(self.rewards.mean()),
            attempt=attempt_of(worst) if failed.any() else "",
        )


def remember(
    work_uri: str,
    iteration: int,
    trajectories: Sequence[Trajectory],
    rewards: npt.NDArray[np.float64],
    *,
    below: float,
) -> Metrics:
    """Write what became of the tasks of that iteration; an episode has failed with a reward less
    than `below`. Trajectories of other iterations were remembered then.

    Raises:
        BadConfiguration: none of them is of that iteration, or they do not say their tasks.
    """
    records = [group.record(below) for group in _groups(iteration, trajectories, rewards)]
    write_records(work_uri, iteration, [one for one in records if one.failed or one.replay])
    again = [one for one in records if one.replay]
    new = [one for one in records if not one.replay]
    metrics = {
        "tasks_failed": float(sum(one.failed_share >= FAILED for one in records)),
        "replayed": float(len(again)),
        "replayed_solved": float(sum(one.failed_share < FAILED for one in again)),
    }
    for name, part in (("mean_reward_new", new), ("mean_reward_replayed", again)):
        if part:
            total = sum(one.mean_reward * one.episodes for one in part)
            metrics[name] = total / sum(one.episodes for one in part)
    return metrics


def _groups(
    iteration: int, trajectories: Sequence[Trajectory], rewards: npt.NDArray[np.float64]
) -> list[_Group]:
    """The trajectories are in canonical order."""
    own = [number for number, one in enumerate(trajectories) if one.key[0] == iteration]
    if not own:
        raise BadConfiguration(
            f"feedback of iteration {iteration} was given trajectories of iteration "
            f"{trajectories[0].key[0]}: error replay needs the right `iteration`"
        )
    if not all(trajectories[number].transitions[0].task for number in own):
        raise BadConfiguration("error replay needs trajectories that say their tasks (`task`)")
    return [
        _Group([trajectories[number] for number in members], rewards[members])
        for _, numbers in groupby(own, key=lambda number: trajectories[number].key[:2])
        if (members := list(numbers))
    ]
