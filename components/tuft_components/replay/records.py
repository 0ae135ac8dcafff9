"""`tuft.replay/1`: what became of the tasks of one iteration that failed or were replayed.

    {work_uri}/replay/000003.parquet

One row a task. A file is there whole or not at all, has the digest of its rows in its metadata, and
is refused where they do not agree: it was cut, or edited by hand.

| column | meaning |
|---|---|
| iteration | number of updates before the one that the task was played for |
| env, env_args | the environment, and its arguments as a JSON object with sorted keys |
| split, seed, index | the task |
| replay | the form of replay that it was played in; empty: it was new |
| episodes, failed | how many were judged, and how many of these had too little reward |
| mean_reward | of the episodes |
| attempt | the worst episode as text, where one failed |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa

from tuft_components.artifacts import list_uris
from tuft_components.envs.base import Task
from tuft_components.errors import BadData
from tuft_components.tables import TableSchema, read_described, write_table
from tuft_components.work import Work

REPLAY = TableSchema(
    "tuft.replay/1",
    pa.schema(
        [
            ("iteration", pa.int64()),
            ("env", pa.string()),
            ("env_args", pa.string()),
            ("split", pa.string()),
            ("seed", pa.int64()),
            ("index", pa.int64()),
            ("replay", pa.string()),
            ("episodes", pa.int64()),
            ("failed", pa.int64()),
            ("mean_reward", pa.float64()),
            ("attempt", pa.string()),
        ]
    ),
)
_READERS = 16
"""Files that are read at the same time: an object store answers after milliseconds."""

TaskKey = tuple[str, str, str, int, int]


@dataclass(frozen=True)
class TaskRecord:
    iteration: int
    env: str
    env_args: str
    split: str
    seed: int
    index: int
    replay: str
    episodes: int
    failed: int
    mean_reward: float
    attempt: str

    @property
    def key(self) -> TaskKey:
        return (self.env, self.env_args, self.split, self.seed, self.index)

    @property
    def task(self) -> Task:
        return Task(self.split, self.seed, self.index)

    @property
    def failed_share(self) -> float:
        return self.failed / self.episodes


def write_records(work_uri: str, iteration: int, records: Sequence[TaskRecord]) -> None:
    """All of an iteration; they replace those of an earlier try."""
    rows = [asdict(record) for record in sorted(records, key=lambda record: record.key)]
    digest = _digest(iteration, rows)
    write_table(_uri(work_uri, iteration), REPLAY, rows, {"iteration": iteration, "digest": digest})


def read_records(work_uri: str, first: int, end: int) -> list[TaskRecord]:
    """Of the iterations from `first` to before `end`, in order; some may have no file.

    Raises:
        BadData: a file is not what `write_records` wrote, or of another version.
    """
    there = _files(work_uri)
    wanted = [number for number in range(max(0, first), end) if number in there]
    with ThreadPoolExecutor(_READERS) as pool:
        files = pool.map(lambda number: _read(there[number], number), wanted)
        return [record for file in files for record in file]


def _files(work_uri: str) -> dict[int, str]:
    found = {}
    for uri in list_uris(Work(work_uri).replay()):
        if name := re.search(r"/(\d{6,})\.parquet$", uri):
            found[int(name[1])] = uri
    return found


def _uri(work_uri: str, iteration: int) -> str:
    return f"{Work(work_uri).replay()}/{iteration:06d}.parquet"


def _read(uri: str, iteration: int) -> list[TaskRecord]:
    rows, described = read_described(uri, REPLAY)
    if described.get("digest") != _digest(iteration, rows):
        raise BadData(
            f"{uri} is not what feedback {iteration} wrote: its rows and its digest do not agree. "
            "Delete it, and run that feedback again, or go on without what it remembered"
        )
    return [TaskRecord(**row) for row in rows]


def _digest(iteration: int, rows: Sequence[dict[str, object]]) -> str:
    """Also of the iteration, so that a file under another's name is found."""
    text = json.dumps([REPLAY.name, iteration, list(rows)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
