"""What is to be removed from the object store later, and when.

A thing is entered before it is written, so that a crash between leaves an entry without an
object, and never an object that nobody removes.
"""

from __future__ import annotations

from tuft.contracts.records import Disposable
from tuft.store import keys
from tuft.store.connection import Connection, texts


class Disposal:
    """Objects with an end: large results, and the policies of ephemeral samplers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def schedule(self, thing: Disposable, due_at: float) -> None:
        """Enter it, or change when it is due (seconds since the epoch)."""
        self._connection.call("ZADD", keys.DISPOSAL, due_at, thing.model_dump_json())

    def due(self, now: float, limit: int) -> list[Disposable]:
        """Up to `limit` things whose time has come, the longest overdue first."""
        found = self._connection.call(
            "ZRANGE", keys.DISPOSAL, "-inf", now, "BYSCORE", "LIMIT", 0, limit
        )
        return [Disposable.model_validate_json(item) for item in texts(found)]

    def drop(self, thing: Disposable) -> None:
        """Forget it: it was removed. Nothing happens where it is not entered."""
        self._connection.call("ZREM", keys.DISPOSAL, thing.model_dump_json())
