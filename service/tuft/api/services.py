"""What every handler works with, opened once per process."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from tuft.api.catalog import Catalog
from tuft.api.waiters import ResultWaiters
from tuft.checkpoints import Checkpoints
from tuft.config import ModelConfig, ServiceConfig
from tuft.contracts.records import ModelInfo
from tuft.errors import InvalidRequest, Unavailable
from tuft.objects import ObjectStore, open_object_store
from tuft.store import Accepted, Store, connect

if TYPE_CHECKING:
    from tuft.api.metrics import Metrics

log = logging.getLogger(__name__)
_BIG_REQUESTS_AT_ONCE = 4
_LOOK_UPS_AT_ONCE = 32
_INFO_HOLDS_S = 2.0
"""A trainer that starts anew may have loaded another model under the same name."""


@dataclass(frozen=True)
class Services:
    """`big_requests` bounds how many large bodies are decompressed and decoded at a time.

    `look_ups` are the threads of long polls: thousands of them asking a store that hangs must
    not take the threads of everything else. `metrics`: None where prometheus_client is not installed.
    """

    config: ServiceConfig
    store: Store
    objects: ObjectStore
    checkpoints: Checkpoints
    catalog: Catalog
    waiters: ResultWaiters
    metrics: Metrics | None = None
    big_requests: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_BIG_REQUESTS_AT_ONCE)
    )
    look_ups: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_LOOK_UPS_AT_ONCE))
    _infos: dict[str, tuple[ModelInfo, float]] = field(default_factory=dict)

    def count(self, kind: str, accepted: Accepted) -> None:
        """An operation of this kind was accepted."""
        if self.metrics is not None and not accepted.duplicate:
            self.metrics.accepted(kind)

    def served(self, base_model: str) -> ModelConfig:
        """The configuration of a base model. Raises InvalidRequest naming those served."""
        try:
            return self.config.model(base_model)
        except KeyError:
            names = ", ".join(repr(m.model_name) for m in self.config.supported_models)
            raise InvalidRequest(
                f"base_model {base_model!r} is not served; this service has: {names}"
            ) from None

    def model_info(self, base_model: str) -> ModelInfo:
        """What the trainer learnt of a base model.

        Raises:
            InvalidRequest: not served.
            Unavailable: its trainer has not loaded it yet.
        """
        self.served(base_model)
        known = self._infos.get(base_model)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        info = self.store.workers.model_info(base_model)
        if info is None:
            raise Unavailable(f"base model {base_model!r} is still being loaded; try again")
        self._infos[base_model] = info, time.monotonic() + _INFO_HOLDS_S
        return info


def open_services(config: ServiceConfig, store_url: str) -> Services:
    """Connect to the store and the object store; neither needs to be there yet."""
    store = Store(connect(store_url))
    objects = open_object_store(config.object_store)
    checkpoints = Checkpoints(objects)
    return Services(
        config=config,
        store=store,
        objects=objects,
        checkpoints=checkpoints,
        catalog=Catalog(store, checkpoints, config.object_store.where),
        waiters=ResultWaiters(store.events, store.futures),
        metrics=_metrics(),
    )


def _metrics() -> Metrics | None:
    # It is one of the service's dependencies since 0.1; an installation from before may lack it.
    if find_spec("prometheus_client") is None:
        log.warning("no /metrics: prometheus_client is not installed")
        return None
    from tuft.api.metrics import Metrics

    return Metrics()
