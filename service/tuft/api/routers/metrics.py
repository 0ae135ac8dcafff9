"""/metrics, for Prometheus: at the root, beside /livez, and no part of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import APIRouter
from fastapi.responses import Response

from tuft.api.deps import Injected
from tuft.api.metrics import CONTENT_TYPE, State
from tuft.api.ownership import MARKER
from tuft.api.services import Services
from tuft.errors import ConfigError, Unavailable
from tuft.store import WorkerStatus
from tuft.store.traffic import ModelTraffic

_PATIENCE_S = 5.0
"""Prometheus gives up after ten seconds: what there is to say of a store that hangs comes before."""
_LOOKS_AT_ONCE = 4
"""Threads that may hang in stores which do; nothing else waits for them."""

_T = TypeVar("_T")
_OfStore = tuple[Mapping[str, ModelTraffic], Mapping[tuple[str, str], int], list[WorkerStatus]]


def metrics_router() -> APIRouter:
    """The route; each application has threads of its own for it."""
    router = APIRouter()
    limiter = CapacityLimiter(_LOOKS_AT_ONCE)

    @router.get("/metrics")
    async def metrics(services: Injected) -> Response:
        """Needs no key, since there is nothing of a tenant in it."""
        assert services.metrics is not None
        models = [model.model_name for model in services.config.supported_models]
        store, there = await asyncio.gather(
            _patiently(lambda: _of_store(services, models), limiter),
            _patiently(lambda: services.objects.exists(MARKER), limiter),
        )
        traffic, finished, workers = store or (None, None, None)
        state = State(models, traffic, finished, workers, objects_up=there is not None)
        return Response(services.metrics.text(state), media_type=CONTENT_TYPE)

    return router


def _of_store(services: Services, models: list[str]) -> _OfStore:
    store = services.store
    return store.traffic.of_models(models), store.traffic.finished(), store.workers.statuses()


async def _patiently(look: Callable[[], _T], limiter: CapacityLimiter) -> _T | None:
    """What a look finds; None where whom it asks is away, refuses, or hangs."""
    with move_on_after(_PATIENCE_S):
        try:
            return await to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
        except (Unavailable, ConfigError):
            return None
    return None
