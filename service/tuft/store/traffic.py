"""How much work there is and was, over all tenants: for metrics, never for decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuft.contracts.operations import FutureRecord
from tuft.store import keys
from tuft.store.connection import Connection, integer, mapping


@dataclass(frozen=True)
class ModelTraffic:
    """What waits and runs for one base model.

    `runs_pending`: training runs with operations that are not done. `runs_paused`: those of them
    that wait for room in the trainer. `samples_waiting`: requests that no sampler has taken.
    `samples_running`: those that one has.
    """

    runs_pending: int
    runs_paused: int
    samples_waiting: int
    samples_running: int


class Traffic:
    """Counters and lengths of queues."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def of_models(self, base_models: Sequence[str]) -> dict[str, ModelTraffic]:
        commands = [
            command
            for model in base_models
            for command in (
                ("ZCARD", keys.pending_runs(model)),
                ("HLEN", keys.paused(model)),
                ("GET", keys.sample_waiting(model)),
                ("XLEN", keys.samples(model)),
            )
        ]
        counts = [integer(reply or 0) for reply in self._connection.read(*commands)]
        return {
            model: ModelTraffic(*counts[4 * index : 4 * index + 4])
            for index, model in enumerate(base_models)
        }

    def finished(self) -> dict[tuple[str, str], int]:
        """Operations that ended since the store was new, by kind and outcome."""
        found = mapping(self._connection.call("HGETALL", keys.FINISHED))
        counts: dict[tuple[str, str], int] = {}
        for field, count in found.items():
            kind, _, outcome = field.partition(":")
            counts[kind, outcome] = int(count)
        return counts


def finished_field(kind: str, future: FutureRecord) -> str:
    """Under which the end of an operation is counted: it was done, or whose fault it was."""
    outcome = "done" if future.status == "done" else f"{future.category}_error"
    return f"{kind}:{outcome}"
