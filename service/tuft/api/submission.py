"""Accepting an operation of a training run: check, journal, and only then answer.

Who may is settled first: a request that is not the run's owner's, or a stale writer's, changes
nothing. What is wrong with the request is settled second, and such a refusal burns its seq_id:
the SDK never uses it again, so that a trainer that waited for it would wait in vain. A refusal
that the SDK retries (429, 503) burns nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuft.api import errors as http
from tuft.api.access import writable_run_of
from tuft.api.deps import Caller
from tuft.api.services import Services
from tuft.contracts.operations import (
    FutureRecord,
    Operation,
    OperationBody,
    Tombstone,
)
from tuft.contracts.records import RunRecord
from tuft.errors import Conflict, InvalidRequest, NotFound, QueueFull, TuftError
from tuft.store import Accepted, RunStatus
from tuft.store.journal import Refused


@dataclass(frozen=True)
class Draft:
    """A validated operation that has no place in the journal yet."""

    body: OperationBody
    digest: str
    result_type: str
    payload: bytes | None = None


@dataclass(frozen=True)
class Slot:
    """The place `(run_id, seq_id)` that a request asks for.

    `repeated`: the place was taken before, so that this is most likely a retry of the same
    request; what was checked then against a state that may have changed since (a name that was
    free) must not be checked again.
    """

    run: RunRecord
    seq_id: int
    repeated: bool


@dataclass(frozen=True)
class Submission:
    """One training request. `maybe_gradient`: it may be a forward_backward that adds gradients.

    Such a one poisons the next optim_step when it is refused, since a partial gradient is
    never applied.
    """

    services: Services
    caller: Caller
    run_id: str
    seq_id: int
    maybe_gradient: bool = False

    def submit(self, draft: Callable[[Slot], Draft]) -> dict[str, Any]:
        """Validate with `draft`, journal, and return the future stub.

        Raises:
            NotFound: no such run, or another tenant's.
            StaleWriter: a newer writer attached.
            InvalidRequest, NotFound, PayloadTooLarge, Conflict: refused for good.
            QueueFull, Unavailable: to be sent again as it is.
        """
        run, status, taken = writable_run_of(self.services, self.caller, self.run_id, self.seq_id)
        if self.seq_id < 1:
            raise InvalidRequest("seq_id is missing or 0; the first request of a run has 1")
        slot = Slot(run, self.seq_id, repeated=taken)
        try:
            drafted = draft(slot)
        except TuftError as error:
            if http.is_final(error):
                self._burn(error)
            raise
        accepted = self._accept(run, status, drafted)
        return {"request_id": accepted.request_id, "model_id": self.run_id}

    def _accept(self, run: RunRecord, status: RunStatus, draft: Draft) -> Accepted:
        limits = self.services.config.limits
        payload, payload_object = draft.payload, None
        if payload is not None and len(payload) > limits.inline_payload_bytes:
            self._check_room(status)
            # Durable before the journal names it: a name without an object can't be.
            payload_object = f"payloads/{self.run_id}/{self.seq_id}-{draft.digest[:16]}"
            self.services.objects.put(payload_object, payload)
            payload = None
        operation = Operation(
            run_id=self.run_id,
            seq_id=self.seq_id,
            digest=draft.digest,
            body=draft.body,
            accepted_at=time.time(),
            payload_object=payload_object,
        )
        future = FutureRecord(
            request_id=operation.request_id, tenant=run.tenant, result_type=draft.result_type
        )
        try:
            accepted = self.services.waiters.expect(
                future,
                lambda: self.services.store.journal.accept(
                    operation,
                    payload,
                    future,
                    writer_epoch=self.caller.writer_epoch,
                    proves_earlier=self._proves_earlier(),
                    max_pending=limits.max_pending_operations,
                    max_pending_tokens=limits.max_pending_tokens,
                    max_tenant_pending=limits.max_tenant_operations,
                    max_behind_snapshot=limits.max_journal_operations,
                ),
            )
        except (Conflict, Refused):
            # Its place is taken by another content, so nothing can name this object.
            if payload_object is not None:
                self.services.objects.delete(payload_object)
            raise
        self.services.count(draft.body.kind, accepted)
        return accepted

    def _check_room(self, status: RunStatus) -> None:
        """Before a payload is uploaded: the journal would say the same, but only afterwards."""
        if self.seq_id < status.next_seq_id:
            return
        limits = self.services.config.limits
        pending = status.next_seq_id - 1 - status.cursor
        if pending >= limits.max_pending_operations:
            raise QueueFull(
                f"training run {self.run_id} has {pending} operations waiting, the limit is "
                "limits.max_pending_operations; try again later"
            )

    def _proves_earlier(self) -> bool:
        """Whether all earlier requests of this run were answered, or given up by their client.

        The SDK has one counter a run and posts request k only after k-1 was answered (or given
        up after five minutes of retries); the chunks of one large forward_backward are the one
        exception, and our client config (`parallel_fwdbwd_chunks: false`) takes it away. So
        whatever the SDK posts proves the earlier ones dead that never came. Other clients never
        read that config and may post chunks in any order: from them a forward_backward proves
        nothing, while every other operation still does, since chunks share one turn and no
        other operation is sent before all of them were answered.
        """
        return self.caller.in_order or not self.maybe_gradient

    def _burn(self, error: TuftError) -> None:
        tombstone = Tombstone(
            run_id=self.run_id,
            seq_id=self.seq_id,
            reason=error.message[: http.MAX_DETAIL],
            poisons=self.maybe_gradient,
            status=http.status_of(error),
        )
        self.services.store.journal.refuse(tombstone, writer_epoch=self.caller.writer_epoch)
        for entry in self._entry():
            if isinstance(entry, Tombstone) and entry != tombstone:
                # It was refused before: a repeated request gets the same answer.
                raise Refused(entry) from error

    def _entry(self) -> list[Operation | Tombstone]:
        try:
            return self.services.store.journal.entries(self.run_id, self.seq_id - 1, 1)
        except NotFound:
            return []  # trimmed long ago
