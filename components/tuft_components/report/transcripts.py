"""Sample transcripts: what the policy really saw and said, of a few iterations."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tuft_components.artifacts import list_uris
from tuft_components.batches import read_batch
from tuft_components.errors import BadData
from tuft_components.trajectories import read_trajectories
from tuft_components.turns import Turn, turns_of
from tuft_components.work import Record

_ITERATIONS = 4
Item = TypeVar("Item")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transcript:
    """`reward` is the judged one where `judged`, else what the environment gave."""

    where: str
    reward: float
    judged: bool
    turns: Sequence[Turn]


def transcripts_of(records: Sequence[Record], work_uri: str, samples: int) -> list[Transcript]:
    """Of up to four iterations and as many evaluations, the best and the worst episode of
    `samples` groups each."""
    found = []
    for step in ("rollout", "evaluate"):
        kept: dict[int, list[str]] = defaultdict(list)
        for record in records:
            if record.step == step and (uri := str(record.values.get("uri") or "")):
                kept[record.iteration].append(uri)
        for iteration in spread(sorted(kept), _ITERATIONS):
            rewards = _judged(records, iteration, work_uri) if step == "rollout" else {}
            files = [file for uri in kept[iteration] for file in list_uris(uri)]
            for file in spread(files, samples):
                found += _of_group(f"{step} after {iteration} updates", file, rewards)
    return found


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, the first and the last among them, evenly between."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    step = (len(items) - 1) / (count - 1)
    return [items[round(number * step)] for number in range(count)]


def _judged(
    records: Sequence[Record], iteration: int, work_uri: str
) -> Mapping[tuple[int, int, int], float]:
    """Rewards by (iteration, group, sample), where the batch is to be had: below the work_uri."""
    for record in records:
        if record.step == "feedback" and record.iteration == iteration:
            uri = record.artifacts.get("batch", "")
            if uri.startswith(work_uri.rstrip("/") + "/"):
                try:
                    return {row.key[:3]: row.reward for row in read_batch(uri)}
                except BadData as error:  # cleaned up since: the environment's rewards are shown
                    _log.warning("no judged rewards of iteration %d: %s", iteration, error)
    return {}


def _of_group(
    where: str, file: str, rewards: Mapping[tuple[int, int, int], float]
) -> list[Transcript]:
    episodes = [
        Transcript(
            where=f"{where}, group {one.key[1]}, sample {one.key[2]}",
            reward=rewards.get(one.key, sum(turn.env_reward for turn in one.transitions)),
            judged=one.key in rewards,
            turns=turns_of(one),
        )
        for one in read_trajectories(file)
    ]
    best = max(episodes, key=lambda one: one.reward)
    worst = min(episodes, key=lambda one: one.reward)
    return [best] if best is worst else [best, worst]
