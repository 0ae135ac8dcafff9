"""Sessions: creation, heartbeats, end, telemetry, and what belongs to one."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from tuft.api import schemas
from tuft.api.access import session_of
from tuft.api.deps import Authenticated, Injected, JsonBody, Offset
from tuft.contracts.records import SessionRecord

router = APIRouter()


@router.post("/create_session")
def create_session(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    request = body.parse(schemas.CreateSession)
    session = SessionRecord(
        session_id=str(uuid.uuid4()),
        tenant=caller.tenant,
        created_at=time.time(),
        tags=request.tags,
        user_metadata=schemas.text_values(request.user_metadata),
        sdk_version=request.sdk_version,
        project_id=request.project_id,
        display_name=request.display_name,
    )
    services.store.sessions.create(session)
    return {"session_id": session.session_id, "type": "create_session"}


@router.post("/session_heartbeat")
def heartbeat(services: Injected, caller: Authenticated, body: JsonBody) -> dict[str, Any]:
    session = session_of(services, caller, body.parse(schemas.SessionId).session_id)
    services.store.sessions.heartbeat(session.session_id)
    return {"type": "session_heartbeat"}


@router.post("/sessions/{session_id}/finish", status_code=204)
def finish(services: Injected, caller: Authenticated, body: JsonBody, session_id: str) -> Response:
    """The first reason wins. Runs of the session go on: another process may attach to them."""
    request = body.parse(schemas.FinishSession)
    session_of(services, caller, session_id)
    services.store.sessions.finish(session_id, request.reason.type)
    return Response(status_code=204)


@router.post("/telemetry")
async def telemetry(_caller: Authenticated, _body: JsonBody) -> dict[str, Any]:
    """Read, so that the connection can be used again, and dropped."""
    return {"status": "accepted"}


@router.get("/sessions")
def list_sessions(
    services: Injected,
    caller: Authenticated,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    offset: Offset = 0,
) -> dict[str, Any]:
    return {"sessions": services.store.sessions.list(caller.tenant, limit, offset)}


@router.get("/sessions/{session_id}")
def get_session(services: Injected, caller: Authenticated, session_id: str) -> dict[str, Any]:
    session = session_of(services, caller, session_id)
    return {
        "training_run_ids": services.store.sessions.run_ids(session_id),
        "sampler_ids": services.store.sessions.sampler_ids(session_id),
        "user_metadata": session.user_metadata,
        "display_name": session.display_name,
    }


@router.put("/sessions/{session_id}/project", status_code=204)
def assign_project(
    services: Injected, caller: Authenticated, body: JsonBody, session_id: str
) -> Response:
    request = body.parse(schemas.AssignProject)
    session_of(services, caller, session_id)
    services.store.sessions.set_project(session_id, request.project_id)
    return Response(status_code=204)
