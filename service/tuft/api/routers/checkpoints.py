"""Checkpoints: lists, and the changes that an owner may make."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from tuft.api import schemas
from tuft.api.access import run_of
from tuft.api.deps import Authenticated, Caller, Injected, JsonBody, Offset
from tuft.api.services import Services
from tuft.checkpoints import KINDS, check_name
from tuft.contracts.records import CheckpointKind, CheckpointRecord, CheckpointSettings
from tuft.errors import InvalidRequest

router = APIRouter()

_TYPES: dict[CheckpointKind, str] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
_ONE = "/training_runs/{run_id}/checkpoints/{kind}/{name}"
_DONE = 204


@router.get("/checkpoints")
def list_all(
    services: Injected,
    caller: Authenticated,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Offset = 0,
) -> dict[str, Any]:
    """The caller's own, newest first."""
    records, total = services.catalog.of_tenant(caller.tenant, limit, offset)
    return {
        "checkpoints": [to_json(record) for record in records],
        "cursor": {"offset": offset, "limit": limit, "total_count": total},
    }


@router.get("/training_runs/{run_id}/checkpoints")
def list_of_run(services: Injected, caller: Authenticated, run_id: str) -> dict[str, Any]:
    run = run_of(services, caller, run_id)
    return {"checkpoints": [to_json(record) for record in services.catalog.of_run(run.run_id)]}


@router.delete(_ONE, status_code=_DONE)
def delete(
    services: Injected, caller: Authenticated, run_id: str, kind: str, name: str
) -> Response:
    services.catalog.delete(_owned(services, caller, run_id, kind, name))
    return Response(status_code=_DONE)


@router.post(_ONE + "/publish", status_code=_DONE)
def publish(
    services: Injected, caller: Authenticated, run_id: str, kind: str, name: str
) -> Response:
    """From now on every tenant may load, sample and look at it."""
    return _set_public(services, _owned(services, caller, run_id, kind, name), public=True)


@router.delete(_ONE + "/publish", status_code=_DONE)
def unpublish(
    services: Injected, caller: Authenticated, run_id: str, kind: str, name: str
) -> Response:
    return _set_public(services, _owned(services, caller, run_id, kind, name), public=False)


@router.put(_ONE + "/ttl", status_code=_DONE)
def set_ttl(
    services: Injected, caller: Authenticated, body: JsonBody, run_id: str, kind: str, name: str
) -> Response:
    """Counted from now; null means never."""
    ttl = body.parse(schemas.SetTtl).ttl_seconds
    record = _owned(services, caller, run_id, kind, name)
    expires_at = None if ttl is None else time.time() + ttl

    def change(settings: CheckpointSettings) -> CheckpointSettings:
        return settings.model_copy(update={"expires_at": expires_at})

    services.catalog.change(record, change)
    return Response(status_code=_DONE)


def to_json(record: CheckpointRecord) -> dict[str, Any]:
    """A checkpoint as the SDK reads it."""
    manifest, settings = record.manifest, record.settings
    expires_at = settings.expires_at
    return {
        "checkpoint_id": f"{manifest.kind}/{manifest.name}",
        "checkpoint_type": _TYPES[manifest.kind],
        "time": _time(manifest.created_at),
        "tinker_path": manifest.path,
        "size_bytes": manifest.size_bytes,
        "public": settings.public,
        "user_metadata": manifest.user_metadata,
        "expires_at": None if expires_at is None else _time(expires_at),
    }


def _owned(
    services: Services, caller: Caller, run_id: str, kind: str, name: str
) -> CheckpointRecord:
    known = [entry for entry in KINDS if entry == kind]
    if not known:
        raise InvalidRequest(f"no kind of checkpoint is {kind!r}; it is one of {', '.join(KINDS)}")
    run = run_of(services, caller, run_id)
    return services.catalog.owned(caller.tenant, run.run_id, known[0], check_name(name))


def _set_public(services: Services, record: CheckpointRecord, *, public: bool) -> Response:
    def change(settings: CheckpointSettings) -> CheckpointSettings:
        return settings.model_copy(update={"public": public})

    services.catalog.change(record, change)
    return Response(status_code=_DONE)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
