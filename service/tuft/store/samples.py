"""The queue of sample operations: one per base model, shared by its samplers and fair to tenants.

Operations wait in a list of their tenant's. Samplers take from the tenants in turn, into a stream
that remembers what each sampler works on.
"""

from __future__ import annotations

from collections.abc import Collection

from tuft.contracts.operations import FutureRecord, SampleOperation
from tuft.errors import Conflict, QueueFull
from tuft.store import keys
from tuft.store.connection import (
    MAX_BLOCK_MS,
    Connection,
    blob,
    integer,
    items,
    script,
    text,
)
from tuft.store.events import STREAM_LENGTH
from tuft.store.traffic import finished_field
from tuft.store.values import Accepted, ClaimedSample, Outcome

GROUP = "samplers"

GONE_S = 20
"""A consumer that has not called `claim` or `reclaim` for this long is gone."""

_RECLAIM_AT_ONCE = 1000


class SampleQueue:
    """Sample operations. Each is handed to one consumer, and to another if that one dies."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._woken: dict[str, str] = {}
        """By base model: the last wake-up that was seen."""

    def accept(
        self,
        op: SampleOperation,
        future: FutureRecord,
        *,
        max_pending: int,
        max_of_tenant: int = 2**53,
    ) -> Accepted:
        """Queue an operation with its pending future; repeating it changes nothing.

        Raises:
            Conflict: the request id was used by another request.
            QueueFull: `max_pending` operations of the base model wait or run, or `max_of_tenant`
                of the tenant.
        """
        if future.request_id != op.request_id:
            raise ValueError(f"future {future.request_id} is not that of {op.request_id}")
        reply = self._connection.run(
            script("sample_accept"),
            [
                keys.future(op.request_id),
                keys.samples(op.base_model),
                keys.sample_tenants(op.base_model),
                keys.sample_waiting(op.base_model),
                keys.sample_wake(op.base_model),
                keys.sample_counts(op.base_model),
            ],
            [
                op.digest,
                op.model_dump_json(),
                future.model_dump_json(),
                max_pending,
                op.tenant,
                keys.sample_queue_prefix(op.base_model),
                max_of_tenant,
            ],
        )
        match text(reply):
            case "accepted" | "duplicate" as said:
                return Accepted(op.request_id, duplicate=said == "duplicate")
            case "full":
                raise QueueFull(
                    f"{max_pending} sample requests of {op.base_model} are waiting, the limit is "
                    "limits.max_pending_samples; try again later"
                )
            case "tenant_full":
                raise QueueFull(
                    f"{op.tenant} has {max_of_tenant} sample requests of {op.base_model} waiting, "
                    "the limit is limits.max_tenant_samples; try again later"
                )
            case _:
                raise Conflict(f"request {op.request_id} was used with another content before")

    def claim(
        self, base_model: str, consumer: str, count: int, block_ms: int
    ) -> list[ClaimedSample]:
        """Take up to `count` new operations, waiting up to `block_ms` for the first.

        Of tenants with operations waiting, each gives one in turn. Call it at least every 30 s,
        with `count` 0 where there is no room: it is the sign of life too. After Unavailable call
        `reclaim` before the next claim, since the reply that was lost may have named operations.
        """
        found = self._take(base_model, consumer, count)
        if found or count <= 0 or block_ms <= 0:
            return found
        wake, seen = keys.sample_wake(base_model), self._woken.get(base_model, "0-0")
        block = min(block_ms, MAX_BLOCK_MS // 2)
        reply = self._connection.block("XREAD", "BLOCK", block, "STREAMS", wake, seen)
        for _name, entries in map(items, items(reply)):
            self._woken[base_model] = text(items(items(entries)[-1])[0])
        return self._take(base_model, consumer, count) if reply else []

    def _take(self, base_model: str, consumer: str, count: int) -> list[ClaimedSample]:
        reply = self._connection.run(
            script("sample_claim"),
            [
                keys.samples(base_model),
                keys.sample_consumers(base_model),
                keys.sample_tenants(base_model),
                keys.sample_waiting(base_model),
            ],
            [GROUP, consumer, count, keys.sample_queue_prefix(base_model)],
        )
        return [
            _claimed(entry_id, fields, deliveries=1)
            for entry_id, fields in map(items, items(reply))
        ]

    def reclaim(
        self, base_model: str, consumer: str, holding: Collection[str] = ()
    ) -> list[ClaimedSample]:
        """What this consumer claimed and did not complete, and what gone consumers had.

        `holding`: ids of entries that this consumer still works on, which are left out.
        """
        reply = self._connection.run(
            script("sample_reclaim"),
            [keys.samples(base_model), keys.sample_consumers(base_model)],
            [GROUP, consumer, GONE_S, _RECLAIM_AT_ONCE, *holding],
        )
        return [
            _claimed(entry_id, fields, deliveries=integer(deliveries))
            for entry_id, fields, deliveries in map(items, items(reply))
        ]

    def release(self, base_model: str, consumer: str, keep: Collection[str], heir: str) -> int:
        """Hand back what this consumer claimed, for others to take at once; how many those are.

        `keep`: ids of entries that it goes on with, which are `heir`'s from now on: its own name,
        or another one, so that a successor of the same name does not take them.
        """
        reply = self._connection.run(
            script("sample_release"),
            [
                keys.samples(base_model),
                keys.sample_consumers(base_model),
                keys.sample_tenants(base_model),
                keys.sample_waiting(base_model),
                keys.sample_wake(base_model),
            ],
            [
                GROUP,
                consumer,
                heir,
                _RECLAIM_AT_ONCE,
                keys.sample_queue_prefix(base_model),
                *keep,
            ],
        )
        return integer(reply)

    def complete(
        self,
        claimed: ClaimedSample,
        outcome: Outcome,
        *,
        result_ttl_s: float,
        max_kept: int = 100_000,
    ) -> None:
        """Finish an operation: its future, and out of the queue, at once. The first one counts.

        Of all results, those of training too, the last `max_kept` are kept.
        """
        op, future = claimed.op, outcome.future
        if future.request_id != op.request_id or future.status == "pending":
            raise ValueError(f"not an outcome of {op.request_id}: {future!r}")
        self._connection.run(
            script("sample_complete"),
            [
                keys.samples(op.base_model),
                keys.future(op.request_id),
                keys.RESULTS,
                keys.sample_counts(op.base_model),
                keys.KEPT_RESULTS,
                keys.FINISHED,
            ],
            [
                GROUP,
                claimed.entry_id,
                op.request_id,
                future.model_dump_json(),
                int(outcome.body is not None),
                outcome.body or b"",
                max(1, round(result_ttl_s * 1000)),
                STREAM_LENGTH,
                op.tenant,
                max_kept,
                keys.FUTURE_PREFIX,
                finished_field("sample", future),
            ],
        )


def _claimed(entry_id: object, fields: object, *, deliveries: int) -> ClaimedSample:
    op = SampleOperation.model_validate_json(blob(items(fields)[1]))
    return ClaimedSample(text(entry_id), op, deliveries)
