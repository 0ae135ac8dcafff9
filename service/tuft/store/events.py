"""Streams that wake those who wait: trainers for work, api replicas for results."""

from __future__ import annotations

from tuft.store import keys
from tuft.store.connection import MAX_BLOCK_MS, Connection, items, text, texts

STREAM_LENGTH = 10_000
"""Events that a stream keeps (about)."""

_BATCH = 1000


class Events:
    """Who listens remembers the id of the last event it has seen, beginning with `latest`.

    Events only say where to look; what they announce stands in the journal and the futures.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def latest(self, stream: str) -> str:
        """Id of the last event of "results" or "work:{base_model}"; "0-0" where there is none."""
        newest = items(self._connection.call("XREVRANGE", f"tuft:{stream}", "+", "-", "COUNT", 1))
        return text(items(newest[0])[0]) if newest else "0-0"

    def work(self, base_model: str, last_id: str, block_ms: int) -> tuple[str, list[str]]:
        """Run ids with news since `last_id`, waiting up to `block_ms` for some, and the new id.

        A reader so late that events may have been dropped gets all runs with something pending.
        """
        stream = keys.work(base_model)
        newest, run_ids = self._read(stream, last_id, block_ms)
        # A stream is cut only above STREAM_LENGTH events: whoever missed some gets a full batch.
        if len(run_ids) == _BATCH and self._dropped_since(stream, last_id):
            index = keys.pending_runs(base_model)
            run_ids += texts(self._connection.call("ZRANGE", index, 0, -1))
        return newest, list(dict.fromkeys(run_ids))

    def results(self, last_id: str, block_ms: int) -> tuple[str, list[str]]:
        """Request ids done since `last_id`, waiting up to `block_ms` for some, and the new id.

        A very late reader (10,000 results) may miss some: look at the future itself, too,
        when a wait ends.
        """
        newest, request_ids = self._read(keys.RESULTS, last_id, block_ms)
        return newest, list(dict.fromkeys(request_ids))

    def _read(self, stream: str, last_id: str, block_ms: int) -> tuple[str, list[str]]:
        tail = ("COUNT", _BATCH, "STREAMS", stream, last_id)
        if block_ms > 0:
            reply = self._connection.block("XREAD", "BLOCK", min(block_ms, MAX_BLOCK_MS), *tail)
        else:
            reply = self._connection.call("XREAD", *tail)
        found: list[str] = []
        for _name, entries in map(items, items(reply)):
            for entry_id, fields in map(items, items(entries)):
                last_id = text(entry_id)
                found.append(text(items(fields)[1]))
        return last_id, found

    def _dropped_since(self, stream: str, last_id: str) -> bool:
        """Whether entries after `last_id` may be gone: the oldest that is left is newer."""
        oldest = items(self._connection.call("XRANGE", stream, "-", "+", "COUNT", 1))
        return bool(oldest) and _order(text(items(oldest[0])[0])) > _order(last_id)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, count = entry_id.partition("-")
    return int(milliseconds), int(count or 0)
