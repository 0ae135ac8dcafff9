"""Futures: what clients poll for. They are written together with what they promise."""

from __future__ import annotations

from collections.abc import Sequence

from tuft.contracts.operations import FutureRecord
from tuft.contracts.records import RunRecord, SamplerRecord
from tuft.errors import Expired, NotFound
from tuft.store import keys
from tuft.store.connection import Connection, blob, integer, items


class Futures:
    """Pending futures stay; finished ones expire with their bodies."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, request_id: str, tenant: str | None = None) -> tuple[FutureRecord, bytes | None]:
        """A future and its inline body (None: pending, failed, or an object).

        With `tenant`, what belongs to others looks like what does not exist.

        Raises:
            NotFound: there was no such request, as far as is known.
            Expired: it was done, and its result was removed after its time to live.
        """
        record, body = items(
            self._connection.call("HMGET", keys.future(request_id), "record", "body")
        )
        if record is None:
            raise self._missing(request_id, tenant)
        future = FutureRecord.model_validate_json(blob(record))
        if tenant is not None and future.tenant != tenant:
            raise NotFound(f"no request {request_id}")
        return future, None if body is None else blob(body)

    def finished(self, request_ids: Sequence[str]) -> dict[str, tuple[FutureRecord, bytes | None]]:
        """Those of the futures that are there and not pending, as `get` has them; in one go."""
        if not request_ids:
            return {}
        replies = self._connection.read(
            *(["HMGET", keys.future(name), "record", "body"] for name in request_ids)
        )
        found: dict[str, tuple[FutureRecord, bytes | None]] = {}
        for name, reply in zip(request_ids, replies, strict=True):
            record, body = items(reply)
            if record is None:
                continue
            future = FutureRecord.model_validate_json(blob(record))
            if future.status != "pending":
                found[name] = future, None if body is None else blob(body)
        return found

    def _missing(self, request_id: str, tenant: str | None) -> NotFound | Expired:
        """The ids of requests are `{run_id}:{seq_id}` and `{sampler_id}:{seq_id}`."""
        parent, _, seq = request_id.rpartition(":")
        unknown = NotFound(f"no request {request_id}")
        if not (parent and seq.isascii() and seq.isdecimal()):
            return unknown
        run, sampler = self._connection.read(
            ["HMGET", keys.run(parent), "record", "cursor"],
            ["HGET", keys.sampler(parent), "record"],
        )
        record, cursor = items(run)
        if record is not None:
            owner = RunRecord.model_validate_json(blob(record)).tenant
            existed = int(seq) <= integer(cursor)
        elif sampler is not None:
            # seq_ids of samples are no sequence, so this one may have been.
            owner = SamplerRecord.model_validate_json(blob(sampler)).tenant
            existed = True
        else:
            return unknown
        if not existed or tenant not in (None, owner):
            return unknown
        return Expired(f"the result of {request_id} has expired; it can't be fetched any more")
