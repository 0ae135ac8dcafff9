"""A trainer process: loads the base model, joins its group, and leads or follows."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from tuft.config import ModelConfig, ServiceConfig
from tuft.errors import ConfigError, Unavailable
from tuft.modeling.loading import describe_model, load_base
from tuft.modeling.lora import inject_lora
from tuft.objects import open_object_store
from tuft.store import Store, WorkerState, connect
from tuft.training.forward import check_head
from tuft.training.group import Place, RankGroup, join_group
from tuft.training.leader import Leader
from tuft.training.replica import Replica

log = logging.getLogger(__name__)

T = TypeVar("T")

_HEARTBEAT_S = 5.0


def run_worker(config: ServiceConfig, store_url: str, model_name: str) -> None:
    """Serve one base model until the process is stopped.

    Raises:
        ConfigError: the model can't be served as configured.
        LeaseLost: another trainer group took over (rank 0 only).
    """
    entry = _entry(config, model_name)
    place = join_group()
    torch.set_num_threads(config.trainer.threads or _share_of_cores(place.world_size))
    if place.rank != 0:
        _load(entry, place)[0].follow()
        return
    store = Store(connect(store_url))
    heart = Heart(store, model_name)
    heart.start()
    group, model = _load(entry, place)
    info = describe_model(model, entry)
    lease = _patiently(lambda: store.workers.acquire(f"trainer:{model_name}"))
    _patiently(lambda: store.workers.set_model_info(info))
    heart.say("ready")
    log.info("training %s on %d rank(s), %s", model_name, place.world_size, place.device)
    objects = open_object_store(config.object_store)
    Leader(group, store, objects, config, model_name, lease).run()


@dataclass
class Heart:
    """Says in the store what this worker does, every few seconds, from a thread of its own."""

    store: Store
    model_name: str
    state: WorkerState = "loading"

    def start(self) -> None:
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def say(self, state: WorkerState) -> None:
        """Change the state, now and in the beats to come."""
        self.state = state
        self._report()

    def _beat(self) -> None:
        while True:
            self._report()
            time.sleep(_HEARTBEAT_S)

    def _report(self) -> None:
        worker_id = f"trainer:{self.model_name}:{socket.gethostname()}:{os.getpid()}"
        try:
            self.store.workers.report(worker_id, "trainer", self.model_name, self.state)
        except Unavailable as error:
            log.warning("no heartbeat: %s", error.message)


def _entry(config: ServiceConfig, model_name: str) -> ModelConfig:
    try:
        return config.model(model_name)
    except KeyError as error:
        raise ConfigError(f"TUFT_MODEL {model_name!r} is not among supported_models") from error


def _load(entry: ModelConfig, place: Place) -> tuple[RankGroup, torch.nn.Module]:
    folder = entry.resolved_folder
    if folder is None:
        raise ConfigError(f"resolved_folder of {entry.model_name!r} is not set")
    model = load_base(folder, entry.dtype, place.device)
    inject_lora(model)
    check_head(model)
    return RankGroup(Replica(model, entry.model_name, place.rank), place), model


def _share_of_cores(world_size: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // world_size)


def _patiently(do: Callable[[], T]) -> T:
    while True:
        try:
            return do()
        except Unavailable as error:
            log.warning("the store is away: %s", error.message)
            time.sleep(1.0)
