"""What is to be removed from the object store later, and when.

A thing is entered before it is written, so that a crash between leaves an entry without an
object, and never an object that nobody removes.
"""

from __future__ import annotations

import uuid

from tuft.contracts.records import Disposable
from tuft.store import keys
from tuft.store.connection import Connection, text, texts


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

    def has(self, thing: Disposable) -> bool:
        """Whether it is entered, as it is."""
        entered = self._connection.call("ZSCORE", keys.DISPOSAL, thing.model_dump_json())
        return entered is not None

    def store_id(self) -> str:
        """What tells this store from others; it is drawn when it is first asked for."""
        self._connection.call("SET", keys.STORE_ID, uuid.uuid4().hex, "NX")
        return text(self._connection.call("GET", keys.STORE_ID))

    def claim_collection(self, holder: str, ttl_s: float) -> bool:
        """Whether `holder` is the one process that collects garbage, for `ttl_s` from now."""
        ttl_ms = round(ttl_s * 1000)
        self._connection.call("SET", keys.COLLECTOR, holder, "NX", "PX", ttl_ms)
        found = self._connection.call("GET", keys.COLLECTOR)
        if found is None or text(found) != holder:
            return False
        self._connection.call("PEXPIRE", keys.COLLECTOR, ttl_ms)
        return True
