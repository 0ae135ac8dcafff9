"""Short ways to the records that the tests of the store write."""

from __future__ import annotations

from typing import Any

from tuft.contracts.operations import (
    CreateModel,
    ForwardBackward,
    FutureRecord,
    Operation,
    OptimStep,
    SampleOperation,
    SamplingParams,
    Tombstone,
)
from tuft.contracts.records import (
    CheckpointFile,
    CheckpointKind,
    CheckpointManifest,
    CheckpointRecord,
    CheckpointSettings,
    LoraSpec,
    RunRecord,
    SamplerRecord,
    SessionRecord,
)
from tuft.store import Accepted, Lease, Outcome, Store

TENANT = "acme"
MODEL = "org/model"
RUN = "session-1:train:0"


def session(session_id: str = "session-1", **more: Any) -> SessionRecord:
    return SessionRecord(**{"session_id": session_id, "tenant": TENANT, "created_at": 1.5, **more})


def run(run_id: str = RUN, **more: Any) -> RunRecord:
    fields = {"run_id": run_id, "tenant": TENANT, "session_id": "session-1", "base_model": MODEL}
    lora = LoraSpec(rank=4, alpha=32.0, seed=7)
    return RunRecord(**{**fields, "lora": lora, "created_at": 1234567.891234, **more})


def operation(seq_id: int, content: str = "", run_id: str = RUN, **more: Any) -> Operation:
    body = ForwardBackward(forward_only=False, rows=1, tokens=4)
    return Operation(
        **{
            "run_id": run_id,
            "seq_id": seq_id,
            "digest": f"digest of {content or seq_id}",
            "body": body,
            "accepted_at": 1000.25 + seq_id,
            **more,
        }
    )


def optim_step(seq_id: int) -> Operation:
    body = OptimStep(
        learning_rate=1e-4, beta1=0.9, beta2=0.95, eps=1e-12, weight_decay=0.0, grad_clip_norm=0.0
    )
    return operation(seq_id, body=body)


def tombstone(seq_id: int, reason: str = "bad request") -> Tombstone:
    return Tombstone(run_id=RUN, seq_id=seq_id, reason=reason, poisons=True, status=422)


def pending(request_id: str, tenant: str = TENANT) -> FutureRecord:
    return FutureRecord(request_id=request_id, tenant=tenant, result_type="ForwardBackward")


def done(op: Operation | SampleOperation, body: bytes | None = b"result") -> Outcome:
    return Outcome(pending(op.request_id).model_copy(update={"status": "done"}), body)


def failed(op: Operation, why: str) -> Outcome:
    update = {"status": "failed", "error": why, "category": "user"}
    return Outcome(pending(op.request_id).model_copy(update=update), None)


def sampler(sampler_id: str = "session-1:sample:0", **more: Any) -> SamplerRecord:
    fields = {"sampler_id": sampler_id, "tenant": TENANT, "session_id": "session-1"}
    return SamplerRecord(**{**fields, "base_model": MODEL, "created_at": 5.125, **more})


def sample(number: int, content: str = "") -> SampleOperation:
    return SampleOperation(
        request_id=f"session-1:sample:0:{number}",
        sampler_id="session-1:sample:0",
        base_model=MODEL,
        policy=None,
        tenant=TENANT,
        digest=f"digest of {content or number}",
        prompt=[1, 2, 3],
        num_samples=1,
        params=SamplingParams(max_tokens=4),
        accepted_at=1.0,
    )


def checkpoint(
    name: str, created_at: float, run_id: str = RUN, kind: CheckpointKind = "weights"
) -> CheckpointRecord:
    manifest = CheckpointManifest(
        run=run(run_id),
        kind=kind,
        name=name,
        step=3,
        has_optimizer=True,
        created_at=created_at,
        files={"adapter_model.safetensors": CheckpointFile(size=10, sha256="0" * 64)},
    )
    return CheckpointRecord(manifest=manifest, settings=CheckpointSettings())


def create_run(store: Store, run_id: str = RUN, digest: str = "", max_runs: int = 100) -> Accepted:
    record = run(run_id)
    op = operation(0, digest, run_id=run_id, body=CreateModel(lora=record.lora))
    return store.runs.create(record, op, pending(op.request_id), max_runs=max_runs)


def accept(
    store: Store,
    op: Operation,
    payload: bytes | None = None,
    *,
    writer_epoch: int = 0,
    proves_earlier: bool = False,
    max_pending: int = 10_000,
    max_pending_tokens: int = 10_000,
) -> Accepted:
    return store.journal.accept(
        op,
        payload,
        pending(op.request_id),
        writer_epoch=writer_epoch,
        proves_earlier=proves_earlier,
        max_pending=max_pending,
        max_pending_tokens=max_pending_tokens,
    )


def complete(store: Store, lease: Lease, op: Operation, outcome: Outcome | None = None) -> None:
    store.journal.complete(lease, op, outcome or done(op), result_ttl_s=600)


def complete_up_to(store: Store, lease: Lease, seq_id: int) -> None:
    """Complete or pass whatever stands in the journal up to `seq_id`."""
    cursor = store.runs.status(RUN).cursor
    for entry in store.journal.entries(RUN, cursor, seq_id - cursor):
        if isinstance(entry, Operation):
            complete(store, lease, entry)
        else:
            store.journal.pass_tombstone(lease, RUN, entry.seq_id)
