"""Which training runs wait for their turn, as their trainer says."""

from __future__ import annotations

from collections.abc import Mapping

from tuft.store import keys
from tuft.store.connection import Connection, text

_HOLDS_S = 30
"""A trainer that says nothing for so long has none waiting, or is gone."""


class Queues:
    """Runs that have work and don't get to it, and why; for clients to read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def publish(self, base_model: str, paused: Mapping[str, str]) -> None:
        """All runs of a base model that wait, with the reason: in place of what was said before.

        To be repeated within half a minute.
        """
        key = keys.paused(base_model)
        said = [["HSET", key, run_id, reason] for run_id, reason in paused.items()]
        self._connection.write(["DEL", key], *said, ["EXPIRE", key, _HOLDS_S])

    def reason(self, base_model: str, run_id: str) -> str | None:
        """Why the run waits; None where it doesn't."""
        found = self._connection.call("HGET", keys.paused(base_model), run_id)
        return None if found is None else text(found)
