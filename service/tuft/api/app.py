"""The application: routers, errors, and what runs beside the requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI

from tuft.api import errors
from tuft.api.deps import Keys
from tuft.api.housekeeping import Housekeeping
from tuft.api.routers import (
    checkpoints,
    client,
    extension,
    files,
    futures,
    models,
    runs,
    sampling,
    service,
    sessions,
    training,
)
from tuft.api.services import Services

_THREADS = 64
"""Handlers that wait for the store or the object store at a time; long polls are not among them."""

_ROUTERS = (
    client.router,
    sessions.router,
    models.router,
    training.router,
    futures.router,
    sampling.router,
    runs.router,
    checkpoints.router,
    service.router,
    extension.router,
    files.router,
)


def create_app(services: Services) -> FastAPI:
    """The ASGI application over opened services."""

    housekeeping = Housekeeping(services.config, services.store, services.objects, services.catalog)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        services.waiters.start()
        services.catalog.start()
        housekeeping.start()
        try:
            yield
        finally:
            services.waiters.stop()
            services.catalog.stop()
            housekeeping.stop()

    # The interactive documentation would fetch scripts from the internet, and knows nothing of
    # bodies that are read by hand.
    app = FastAPI(title="TuFT", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    app.state.keys = Keys(services.config.api_keys)
    errors.install(app)
    for router in _ROUTERS:
        app.include_router(router, prefix="/api/v1")
    app.include_router(service.health, prefix="/api/v1")
    app.include_router(service.health)
    _serve_metrics(app, services)
    return app


def _serve_metrics(app: FastAPI, services: Services) -> None:
    if services.metrics is None:
        return
    from tuft.api.metrics import Timing
    from tuft.api.routers.metrics import metrics_router

    app.include_router(metrics_router())
    app.add_middleware(Timing, metrics=services.metrics)
