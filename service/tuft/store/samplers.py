"""Samplers: sampling sessions of a frozen policy version, or of a base model."""

from __future__ import annotations

from tuft.contracts.records import SamplerRecord
from tuft.errors import Conflict, NotFound
from tuft.store import keys
from tuft.store.connection import Connection, blob, script, text
from tuft.store.values import Effect


class Samplers:
    """Sampler records; they live as long as their session is remembered."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, sampler: SamplerRecord, digest: str) -> None:
        """Add a sampler; repeating it with the same digest (of the request) changes nothing.

        Raises:
            Conflict: the id was used by another request.
        """
        reply = self._connection.run(
            script("sampler_create"),
            [keys.sampler(sampler.sampler_id), keys.session_samplers(sampler.session_id)],
            [sampler.sampler_id, sampler.model_dump_json(), sampler.created_at, digest],
        )
        if text(reply) == "conflict":
            raise Conflict(
                f"sampler {sampler.sampler_id} was created by another request before; "
                "use a new sampling_session_seq_id"
            )

    def get(self, sampler_id: str) -> SamplerRecord:
        """Raises: NotFound."""
        found = self._connection.call("HGET", keys.sampler(sampler_id), "record")
        if found is None:
            raise NotFound(f"no sampling session {sampler_id}")
        return SamplerRecord.model_validate_json(blob(found))

    def creation_effects(self, sampler: SamplerRecord) -> list[Effect]:
        """What adds the sampler together with the completion of the operation that made it."""
        return [
            ["HSET", keys.sampler(sampler.sampler_id), "record", sampler.model_dump_json()],
            [
                "ZADD",
                keys.session_samplers(sampler.session_id),
                repr(sampler.created_at),
                sampler.sampler_id,
            ],
        ]
