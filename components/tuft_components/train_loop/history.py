"""`tuft.history/1`: what the iterations of a train_loop came to, one row an iteration.

| column | meaning |
|---|---|
| iteration | number of updates before this one |
| policy | tinker:// path of the policy after it |
| checkpoint | tinker:// path of the checkpoint after it, or empty |
| mean_reward | of the batch's episodes, as the policy that was sampled from earned it |
| staleness | updates that this policy lacked, at most |
| resumed | an earlier execution had done it: it was read from the ledger |
| seconds | from the end of the iteration before to its own; null where resumed |
| metrics | JSON object: what the update measured |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from tuft_components.errors import BadData
from tuft_components.steps import Dataset, Metrics
from tuft_components.tables import TableSchema, read_table, write_table
from tuft_components.update.step import UpdateOutputs

HISTORY = TableSchema(
    "tuft.history/1",
    pa.schema(
        [
            ("iteration", pa.int64()),
            ("policy", pa.string()),
            ("checkpoint", pa.string()),
            ("mean_reward", pa.float64()),
            ("staleness", pa.int64()),
            ("resumed", pa.bool_()),
            ("seconds", pa.float64()),
            ("metrics", pa.string()),
        ]
    ),
)


@dataclass(frozen=True)
class Iteration:
    """An iteration that is done. `seconds` is None where it was resumed."""

    iteration: int
    policy: str
    checkpoint: str
    mean_reward: float
    staleness: int
    resumed: bool
    seconds: float | None
    metrics: Metrics

    @classmethod
    def of(cls, number: int, updated: UpdateOutputs, seconds: float | None = None) -> Iteration:
        """Of an update's result, which has all that counts: it is the same when it is resumed.

        Raises:
            BadData: the update was recorded by a version that did not note its reward.
        """
        metrics = updated.metrics
        if "mean_reward" not in metrics:
            raise BadData(
                f"update/{number} of this run is recorded without the mean reward of its batch, by "
                "an older version: begin behind it, with first_iteration and its policy"
            )
        return cls(
            iteration=number,
            policy=updated.policy,
            checkpoint=updated.checkpoint,
            mean_reward=metrics["mean_reward"],
            staleness=int(metrics["staleness"]),
            resumed=seconds is None,
            seconds=seconds,
            metrics=metrics,
        )


def write_history(
    uri: str, iterations: Sequence[Iteration], metadata: Mapping[str, str | int | float]
) -> Dataset:
    rows = [asdict(each) | {"metrics": json.dumps(each.metrics)} for each in iterations]
    return write_table(uri, HISTORY, rows, metadata)


def read_history(uri: str) -> list[Iteration]:
    """In order of iteration.

    Raises:
        BadData: not a Parquet file, or one of another schema.
    """
    rows = [{**row, "metrics": json.loads(row["metrics"])} for row in read_table(uri, HISTORY)]
    return sorted((Iteration(**row) for row in rows), key=lambda each: each.iteration)
