"""Where a train_loop's trajectories and batches are: below its work_uri, or for a while only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Places:
    root: str

    def trajectories(self, iteration: int) -> str:
        return f"{self.root}/trajectories/{iteration:06d}.parquet"

    def batch(self, iteration: int) -> str:
        return f"{self.root}/batches/{iteration:06d}.parquet"


@contextmanager
def places(work_uri: str) -> Iterator[Places]:
    if work_uri:
        yield Places(work_uri.rstrip("/"))
        return
    with tempfile.TemporaryDirectory(prefix="tuft-") as folder:
        yield Places(folder)
