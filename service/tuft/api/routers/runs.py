"""Training runs, as lists and one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from tuft.api.access import run_of
from tuft.api.deps import Authenticated, Injected, Offset
from tuft.api.routers.checkpoints import to_json
from tuft.api.services import Services
from tuft.contracts.records import CheckpointKind, CheckpointRecord, RunRecord
from tuft.errors import NotFound

router = APIRouter()

Scope = Literal["owned", "accessible"]
"""Other tenants' runs are never accessible (their public checkpoints are, by path)."""


@router.get("/training_runs")
def list_runs(
    services: Injected,
    caller: Authenticated,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    offset: Offset = 0,
    access_scope: Scope = "owned",  # noqa: ARG001 - both mean the same here
    project_id: str | None = None,
) -> dict[str, Any]:
    services.catalog.wait_until_complete()
    if project_id is None:
        runs, total = services.store.runs.list(caller.tenant, limit, offset)
    else:
        found = _of_project(services, caller.tenant, project_id)
        runs, total = found[offset : offset + limit], len(found)
    return {
        "training_runs": [_to_json(services, run) for run in runs],
        "cursor": {"offset": offset, "limit": limit, "total_count": total},
    }


@router.get("/training_runs/{run_id}")
def get_run(
    services: Injected,
    caller: Authenticated,
    run_id: str,
    access_scope: Scope = "owned",  # noqa: ARG001 - both mean the same here
) -> dict[str, Any]:
    return _to_json(services, run_of(services, caller, run_id))


def _of_project(services: Services, tenant: str, project_id: str) -> list[RunRecord]:
    _, total = services.store.runs.list(tenant, 1, 0)
    runs, _ = services.store.runs.list(tenant, total, 0)
    sessions = {run.session_id for run in runs}
    inside = {session for session in sessions if _project(services, session) == project_id}
    return [run for run in runs if run.session_id in inside]


def _project(services: Services, session_id: str) -> str | None:
    try:
        return services.store.sessions.get(session_id).project_id
    except NotFound:
        return None  # only the checkpoints of this session's runs are left


def _to_json(services: Services, run: RunRecord) -> dict[str, Any]:
    status = services.store.runs.status(run.run_id)
    checkpoints = services.catalog.of_run(run.run_id)
    return {
        "training_run_id": run.run_id,
        "base_model": run.base_model,
        "model_owner": run.tenant,
        "is_lora": True,
        "lora_rank": run.lora.rank,
        "corrupted": False,
        "last_request_time": datetime.fromtimestamp(status.last_request_at, UTC).isoformat(),
        "last_checkpoint": _newest(checkpoints, "weights"),
        "last_sampler_checkpoint": _newest(checkpoints, "sampler_weights"),
        "user_metadata": run.user_metadata,
    }


def _newest(records: list[CheckpointRecord], kind: CheckpointKind) -> dict[str, Any] | None:
    found = [record for record in records if record.manifest.kind == kind]
    return to_json(found[0]) if found else None
