"""What Prometheus is told: requests of this process, and work of the whole service.

No tenant is in a label, and no label has values that a client can choose: who may look at the
metrics learns how much is done, not for whom.

Where several api processes share a port, each scrape reaches one of them. They add up their
numbers in files of PROMETHEUS_MULTIPROC_DIR then, as prometheus_client does by itself.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuft import __version__
from tuft.store import WorkerState, WorkerStatus
from tuft.store.traffic import ModelTraffic

CONTENT_TYPE: str = prometheus.CONTENT_TYPE_LATEST
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
# A long poll is held for 25 s or so; a large upload may take longer.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROLES = ("trainer", "sampler")
_STATES: tuple[WorkerState, ...] = ("loading", "standby", "ready")
_OF_QUEUES: Mapping[str, str] = {
    "runs_pending": "Training runs with operations that are not done.",
    "runs_paused": "Training runs that wait for room in the trainer.",
    "samples_waiting": "Sample requests that no sampler has taken.",
    "samples_running": "Sample requests at work.",
}

_Labels = TypeVar("_Labels", bound=tuple[str, ...])


@dataclass(frozen=True)
class State:
    """Of the service, read for one scrape. What was not to be had is None."""

    models: list[str]
    traffic: Mapping[str, ModelTraffic] | None
    finished: Mapping[tuple[str, str], int] | None
    workers: list[WorkerStatus] | None
    objects_up: bool


class Metrics:
    """Counts what this process does; cheap, and safe to call from any thread."""

    def __init__(self) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Histogram(
            "tuft_http_request_seconds",
            "Requests and how long their answers took; long polls are those of retrieve_future.",
            ("method", "path", "code"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._accepted = prometheus.Counter(
            "tuft_operations_accepted",
            "Operations that were journalled, by kind; a repeated request counts once.",
            ("kind",),
            registry=registry,
        )
        if not _shared():
            prometheus.ProcessCollector(registry=registry)

    def accepted(self, kind: str) -> None:
        """An operation is in the journal."""
        self._accepted.labels(kind).inc()

    def answered(self, method: str, path: str, code: int, seconds: float) -> None:
        """A request was answered. `path`: of the route, with names of its parameters."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, path, str(code)).observe(seconds)

    def text(self, state: State) -> bytes:
        """In Prometheus' text form."""
        registry = self._registry
        if _shared():
            registry = prometheus.CollectorRegistry()
            MultiProcessCollector(registry)
        families = prometheus.CollectorRegistry()
        families.register(_Collected(_families(state)))
        own: bytes = prometheus.generate_latest(registry)
        whole: bytes = prometheus.generate_latest(families)
        return own + whole


class Timing:
    """The ASGI layer that measures requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        code = 500  # what is raised through here becomes

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # A path that no route has is the client's choice, and may be any.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(scope["method"], path, code, time.perf_counter() - began)


class _Collected:
    """What prometheus_client wants to be given."""

    def __init__(self, families: Iterable[prometheus.Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[prometheus.Metric]:
        yield from self._families


def _shared() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def _families(state: State) -> Iterator[prometheus.Metric]:
    yield _gauge("tuft_info", "This version.", ("version",), {(__version__,): 1})
    yield _gauge("tuft_store_up", "1 where the store answers.", (), {(): state.workers is not None})
    yield _gauge("tuft_object_store_up", "1 where it answers.", (), {(): state.objects_up})
    if state.workers is not None:
        there = Counter((of.base_model, of.role, of.state) for of in state.workers)
        counts = {key: there[key] for key in product(state.models, _ROLES, _STATES)}
        yield _gauge("tuft_workers", "Workers alive.", ("model", "role", "state"), counts)
    if state.traffic is not None:
        for name, help_text in _OF_QUEUES.items():
            lengths = {(model,): getattr(of, name) for model, of in state.traffic.items()}
            yield _gauge(f"tuft_{name}", help_text, ("model",), lengths)
    if state.finished is not None:
        ended = CounterMetricFamily(
            "tuft_operations_finished",
            "Operations that ended since the store was new: the same number from every api process.",
            labels=("kind", "outcome"),
        )
        for labels, count in sorted(state.finished.items()):
            ended.add_metric(labels, count)
        yield ended


def _gauge(
    name: str, help_text: str, labels: tuple[str, ...], values: Mapping[_Labels, float]
) -> prometheus.Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for labelled, value in values.items():
        family.add_metric(labelled, float(value))
    return family
