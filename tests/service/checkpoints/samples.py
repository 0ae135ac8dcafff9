"""What the tests of checkpoints write."""

from __future__ import annotations

from tuft.checkpoints import Checkpoints
from tuft.contracts.records import (
    CheckpointKind,
    CheckpointManifest,
    CheckpointRecord,
    LoraSpec,
    RunRecord,
)

RUN_ID = "session-1:train:0"
OLD = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"old" * 5000}
NEW = {
    "adapter_config.json": b'{"r": 16}',
    "adapter_model.safetensors": b"new" * 7000,
    "optimizer.safetensors": b"momentum" * 900,
}


def manifest(
    name: str = "a", *, step: int = 3, kind: CheckpointKind = "weights", **more: object
) -> CheckpointManifest:
    run = RunRecord(
        run_id=RUN_ID,
        tenant="local",
        session_id="session-1",
        base_model="tiny",
        lora=LoraSpec(rank=8, alpha=32.0, seed=1),
        created_at=1000.0,
    )
    base = CheckpointManifest(
        run=run,
        kind=kind,
        name=name,
        step=step,
        has_optimizer=kind == "weights",
        created_at=2000.0,
        files={},
    )
    return base.model_copy(update=more)


def scan(checkpoints: Checkpoints) -> list[CheckpointRecord]:
    """All that users own, as who rebuilds the index sees them."""
    found = (checkpoints.listed(path.prefix) for path in checkpoints.paths())
    return [record for record in found if record is not None]
