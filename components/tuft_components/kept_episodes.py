"""Finished groups of a rollout or an evaluation, kept while the others are still being played.

    {work_uri}/episodes/rollout-000003/{digest}/shard-0000-of-0004/group-000008.parquet

Each is a file of schema `tuft.trajectories/3`, there whole or not at all. The digest is of what
decides the episodes (policy, environment, seeds, lengths …): where one of these is another, what
was kept before is not taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tuft_components.artifacts import list_uris
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.trajectories import (
    TRAJECTORIES,
    Trajectory,
    Transition,
    group_transitions,
    read_transitions,
    write_trajectories,
)
from tuft_components.work import Work

_READERS = 16
"""Files that are read at the same time: an object store answers after milliseconds."""


class KeptEpisodes:
    """The groups of one shard. `uri` is their prefix: what other pods read them by."""

    def __init__(
        self, work_uri: str, name: str, *, shard: int, shards: int, decided_by: Mapping[str, Any]
    ) -> None:
        """`name` is of the step execution; `decided_by`, JSON values, are what its episodes
        follow from."""
        text = json.dumps({"schema": TRAJECTORIES.name, **decided_by}, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.uri = f"{Work(work_uri).episodes(name)}/{self._digest}/"
        self.uri += f"shard-{shard:04d}-of-{shards:04d}/"

    def add(self, group_id: int, transitions: Sequence[Transition]) -> None:
        """Keep a group whose episodes are all done."""
        write_trajectories(self._group_uri(group_id), transitions, {"digest": self._digest})

    def read(self, group_ids: Iterable[int]) -> dict[int, list[Transition]]:
        """Those of the groups that are kept.

        Raises:
            BadData: a file is not what `add` wrote.
        """
        there = set(list_uris(self.uri))
        uris = {g: self._group_uri(g) for g in group_ids}
        found = {g: uri for g, uri in uris.items() if uri in there}
        return dict(zip(found, _read_files(list(found.values())), strict=True))

    def _group_uri(self, group_id: int) -> str:
        return f"{self.uri}group-{group_id:06d}.parquet"


def read_episodes(uris: Sequence[str]) -> list[Trajectory]:
    """Episodes of all these files and prefixes, in canonical order, whatever the order of `uris`.

    A prefix is a folder, or ends with a slash. The same transition may be there several times if
    it is identical: a group that was kept, and the file of the whole rollout, say.

    Raises:
        BadConfiguration: no URI, or an empty one.
        BadData: nothing there, another schema, or two transitions that are not identical under
            one (iteration, group, sample, turn).
    """
    if not uris:
        raise BadConfiguration(
            "no trajectories: give the input `trajectories`, or URIs in `trajectories_uris`"
        )
    files = list(dict.fromkeys(file for uri in uris for file in _files(uri)))
    found: dict[tuple[int, int, int, int], tuple[str, Transition]] = {}
    for uri, transitions in zip(files, _read_files(files), strict=True):
        for t in transitions:
            key = (t.iteration, t.group_id, t.sample, t.turn)
            other, before = found.setdefault(key, (uri, t))
            if before != t or (before is not t and other == uri):
                raise BadData(
                    f"(iteration, group, sample, turn) {key} is in {other} and in {uri}, "
                    "and not the same: were trajectories of two rollouts given?"
                    if other != uri
                    else f"{uri}: (iteration, group, sample, turn) {key} is there twice"
                )
    where = files[0] if len(files) == 1 else f"{len(files)} files"
    return group_transitions(where, [transition for _, transition in found.values()])


def _files(uri: str) -> list[str]:
    if not uri:
        raise BadConfiguration(
            "an empty URI of trajectories: a rollout gives its `uri` only where it has a work_uri"
        )
    if not (uri.endswith("/") or Path(uri).is_dir()):
        return [uri]
    files = [file for file in list_uris(uri) if file.endswith(".parquet")]
    if not files:
        raise BadData(f"{uri} holds no episodes (no .parquet file)")
    return files


def _read_files(uris: Sequence[str]) -> list[list[Transition]]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read_transitions, uris))
