"""Checkpoints as a trainer would leave them: in the object store and in the index."""

from __future__ import annotations

import time
from typing import Any

from tests.service.api.harness import Api
from tuft.contracts.records import (
    CheckpointKind,
    CheckpointManifest,
    CheckpointRecord,
    CheckpointSettings,
)


def write_checkpoint(
    api: Api,
    run_id: str,
    kind: CheckpointKind,
    name: str,
    *,
    index: bool = True,
    settings: CheckpointSettings | None = None,
    content: bytes = b"12345678",
    **changes: Any,
) -> CheckpointRecord:
    manifest = CheckpointManifest(
        run=api.store.runs.get(run_id),
        kind=kind,
        name=name,
        step=3,
        has_optimizer=kind == "weights",
        created_at=time.time(),
        files={},
    ).model_copy(update=changes)
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": content}
    record = api.services.checkpoints.write(manifest, files, settings=settings, overwrite=True)
    if index:
        api.store.checkpoints.put(record)
    return record
