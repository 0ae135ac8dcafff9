"""Which groups of a rollout play a failed task again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuft_components.episodes import Again, EpisodeSet
from tuft_components.errors import BadConfiguration
from tuft_components.replay.attempts import hint_from
from tuft_components.replay.records import read_records
from tuft_components.replay.store import Bounds, Entry, Store
from tuft_components.steps import Metrics


@dataclass(frozen=True)
class Replay:
    """How much of the store is played, and in which form: `fresh` or `hint`."""

    work_uri: str
    ratio: float
    form: str
    bounds: Bounds


@dataclass(frozen=True)
class Chosen:
    """`again` is for an `EpisodeSet`, of all shards; `store` is how many tasks there were."""

    again: Mapping[int, Again]
    store: int

    def metrics(self) -> Metrics:
        return {"replay_groups": float(len(self.again)), "replay_store": float(self.store)}

    def decides(self) -> dict[str, Any]:
        """What the episodes follow from, as JSON values; nothing where nothing is replayed."""
        groups = {
            str(group): [one.task.split, one.task.seed, one.task.index, one.form, one.hint]
            for group, one in self.again.items()
        }
        return {"again": groups} if groups else {}


def choose(replay: Replay, episodes: EpisodeSet) -> Chosen:
    """Groups at equal distances play failed tasks: where a budget ends a rollout, as many of these
    are left out as of others.

    What is known are the iterations whose updates the policy has: their feedback has been given
    for sure, also where rollouts run ahead of updates.

    Raises:
        BadConfiguration: there is no work_uri. BadData: a file of records is not as it was written.
    """
    if replay.ratio == 0:
        return Chosen({}, 0)
    needs_work_uri(replay.ratio, replay.work_uri)
    known, bounds = episodes.version(), replay.bounds
    records = read_records(replay.work_uri, known - bounds.max_age, known)
    args = json.dumps(dict(episodes.env_args), sort_keys=True)
    same = (episodes.env, args, episodes.split)
    ours = [record for record in records if record.key[:3] == same]
    store = Store.of(ours, episodes.iteration, bounds)
    # Of 8 groups a ratio of 0.3 is 2, and one of 0.29 is 2 as well: never more than asked for.
    count = int(replay.ratio * episodes.groups + 1e-9)
    drawn = store.draw(count, episodes.seed)
    apart = episodes.groups / max(1, len(drawn))
    again = {int((n + 0.5) * apart): _again(one, replay.form) for n, one in enumerate(drawn)}
    return Chosen(again, len(store.entries))


def needs_work_uri(ratio: float, work_uri: str) -> None:
    """Raises:
    BadConfiguration: there is a ratio, and no work_uri.
    """
    if ratio and not work_uri:
        raise BadConfiguration(
            "replay_ratio is set: error replay keeps what failed below work_uri; give one"
        )


def _again(entry: Entry, form: str) -> Again:
    hint = hint_from(entry.failure) if form == "hint" else ""
    return Again(entry.failure.task, form, hint)
