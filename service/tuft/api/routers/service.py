"""The service itself: what it serves, whether it is ready, whose key this is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from tuft.api.deps import Authenticated, Injected
from tuft.api.services import Services

router = APIRouter()
health = APIRouter()

_ROLES = ("trainer", "sampler")


@router.get("/get_server_capabilities")
def capabilities(services: Injected, _caller: Authenticated) -> dict[str, Any]:
    models = []
    for config in services.config.supported_models:
        info = services.store.workers.model_info(config.model_name)
        models.append(
            {
                "model_name": config.model_name,
                "max_context_length": info.max_model_len if info else config.max_model_len,
                "trainable": True,
                "sampleable": True,
            }
        )
    return {"supported_models": models}


@health.get("/livez")
async def livez() -> dict[str, str]:
    """200 while this process answers at all; asks neither store nor workers, and needs no key.

    On the event loop: where that hangs, or takes nothing more, the process is to be restarted.
    """
    return {"status": "ok"}


@health.get("/healthz")
def healthz(services: Injected) -> JSONResponse:
    """200 once every model's trainer and sampler are ready; needs no key."""
    waiting = _not_ready(services)
    if not waiting:
        return JSONResponse({"status": "ok"})
    return JSONResponse(
        {"status": "loading", "detail": f"not ready: {', '.join(waiting)}", "waiting": waiting},
        503,
        {"Retry-After": "1"},
    )


@health.get("/readyz")
def readyz(services: Injected) -> JSONResponse:
    """200 once requests for every model are taken, whether a worker is there or not; needs no key.

    For clients that wait before they begin: what they ask for is journalled, and brings workers
    back where there are none.
    """
    names = [model.model_name for model in services.config.supported_models]
    unknown = [name for name in names if services.store.workers.model_info(name) is None]
    if not unknown:
        return JSONResponse({"status": "ok"})
    detail = f"not loaded for the first time: {', '.join(unknown)}"
    return JSONResponse({"status": "loading", "detail": detail}, 503, {"Retry-After": "1"})


@router.get("/auth/apikey/me")
async def own_key(caller: Authenticated) -> dict[str, Any]:
    """For `tinker auth login`. Keys have no ids here: they stand in the configuration."""
    return {
        "key_id": 0,
        "name": caller.tenant,
        "note": "",
        "details": {"org_details": {"name": caller.tenant}, "user_details": {"email": ""}},
    }


def _not_ready(services: Services) -> list[str]:
    ready = {
        (status.role, status.base_model)
        for status in services.store.workers.statuses()
        if status.state == "ready"
    }
    return [
        f"{role} of {model.model_name}"
        for model in services.config.supported_models
        for role in _ROLES
        if (role, model.model_name) not in ready
    ]
