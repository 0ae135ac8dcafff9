"""A trainer process: loads the base model, joins its group, and leads or follows."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from tuft.config import ModelConfig, ServiceConfig
from tuft.contracts.records import ModelInfo
from tuft.errors import Unavailable
from tuft.modeling.loading import describe_model, load_base, resolve_dtype
from tuft.modeling.lora import inject_lora
from tuft.objects import open_object_store
from tuft.store import Heartbeat, Store, connect
from tuft.training.group import Place, RankGroup, join_group
from tuft.training.leader import Leader
from tuft.training.memory import activation_bytes
from tuft.training.partitioned import PartitionedBase
from tuft.training.replica import Replica

log = logging.getLogger(__name__)

T = TypeVar("T")


def run_worker(config: ServiceConfig, entry: ModelConfig, folder: Path, store_url: str) -> None:
    """Serve one base model until the process is stopped.

    Raises:
        ConfigError: the model can't be served as configured.
        LeaseLost: another trainer group took over (rank 0 only).
    """
    place = join_group()
    torch.set_num_threads(config.trainer.threads or _share_of_cores(place.world_size))
    if place.rank != 0:
        _load(config, entry, folder, place)[0].follow()
        return
    store = Store(connect(store_url))
    model_name = entry.model_name
    # Only rank 0 tells, and a host has one rank 0 of a model.
    worker_id = f"trainer:{model_name}@{socket.gethostname()}"
    heartbeat = Heartbeat(store, worker_id, "trainer", model_name)
    group, info = _load(config, entry, folder, place)
    lease = _patiently(lambda: store.workers.acquire(f"trainer:{model_name}"))
    _patiently(lambda: store.workers.set_model_info(info))
    heartbeat.ready()
    log.info("training %s on %d rank(s), %s", model_name, place.world_size, place.device)
    objects = open_object_store(config.object_store)
    Leader(group, store, objects, config, model_name, lease).run(threading.Event())


def _load(
    config: ServiceConfig, entry: ModelConfig, folder: Path, place: Place
) -> tuple[RankGroup, ModelInfo]:
    plan = config.trainer.deepspeed_plan
    dtype = str(resolve_dtype(entry.dtype, place.device)).removeprefix("torch.")
    # What is partitioned goes to the device weight by weight.
    model = load_base(folder, dtype, place.device if plan.base_zero is None else "cpu")
    info = describe_model(model, entry)
    base = None
    if plan.base_zero is not None:
        base = PartitionedBase(model, plan.base_zero, place.device)
    inject_lora(model)
    memory = activation_bytes(config.trainer.activation_memory_gb, place.device, place.world_size)
    replica = Replica(model, entry.model_name, place.rank, memory, plan=plan, base=base)
    return RankGroup(replica, place), info


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
