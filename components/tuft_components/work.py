"""Where the steps of one pipeline run keep what outlives their pods.

    {work_uri}/episodes/{name}/…      finished episodes of a rollout or evaluation, while it runs
    {work_uri}/replay/{iteration}.parquet   what became of tasks, for error replay
    {work_uri}/records/{name}.json    `tuft.record/1`: what a step did, with its metrics

A folder, or s3://bucket/prefix. Everything has a name that follows from what the step is, so that
a step that is run again writes the same places.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from tuft_components.artifacts import list_uris, read_bytes, write_bytes
from tuft_components.errors import BadData
from tuft_components.mlflow_tracking import track

RECORD_SCHEMA = "tuft.record/1"


class Record(BaseModel):
    """What one execution of a step did. `finished_at` is in seconds since 1970."""

    schema_name: str = RECORD_SCHEMA
    step: str
    iteration: int = 0
    shard: int = 0
    seconds: float
    finished_at: float
    params: dict[str, Any]
    values: dict[str, Any]
    metrics: dict[str, float]
    artifacts: dict[str, str]


class Work:
    """The places below a `work_uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def episodes(self, name: str) -> str:
        """The prefix for kept episodes of the step execution of that name."""
        return f"{self.uri}/episodes/{name}"

    def replay(self) -> str:
        """The prefix for what became of the tasks of each iteration."""
        return f"{self.uri}/replay"

    def add(self, record: Record) -> None:
        """Keep a record; it replaces that of an earlier try of the same step."""
        uri = self._record_uri(record.step, record.iteration, record.shard)
        write_bytes(uri, record.model_dump_json().encode())

    def has(self, step: str, iteration: int, shard: int = 0) -> bool:
        """Whether that step left a record."""
        return self._record_uri(step, iteration, shard) in list_uris(f"{self.uri}/records/")

    def records(self) -> list[Record]:
        """All that were kept, by iteration, step and shard.

        Raises:
            BadData: a file there is no record of this version.
        """
        found = []
        for uri in list_uris(f"{self.uri}/records/"):
            try:
                record = Record.model_validate_json(read_bytes(uri))
            except ValidationError as error:
                raise BadData(f"{uri} is no record of a step: {error}") from error
            if record.schema_name != RECORD_SCHEMA:
                raise BadData(f"{uri} is {record.schema_name}; this version reads {RECORD_SCHEMA}")
            found.append(record)
        return sorted(found, key=lambda record: (record.iteration, record.step, record.shard))

    def _record_uri(self, step: str, iteration: int, shard: int) -> str:
        return f"{self.uri}/records/{iteration:06d}-{step}-{shard:04d}.json"


def keep_record(
    step: str,
    params: BaseModel,
    values: Mapping[str, Any],
    metrics: Mapping[str, float],
    artifacts: Mapping[str, str],
    *,
    seconds: float,
) -> None:
    """Add the record of a step whose parameters name a `work_uri`, and tell MLflow if there is one."""
    work_uri: str = getattr(params, "work_uri", "")
    record = Record(
        step=step,
        # Segments of a loop are told apart by where they begin.
        iteration=getattr(params, "iteration", getattr(params, "first_iteration", 0)),
        shard=getattr(params, "shard", 0),
        seconds=round(seconds, 3),
        finished_at=time.time(),
        params=params.model_dump(),
        values=dict(values),
        metrics=dict(metrics),
        artifacts=dict(artifacts),
    )
    if work_uri:
        Work(work_uri).add(record)
    track(record)
