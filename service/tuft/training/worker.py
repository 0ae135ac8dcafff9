"""A trainer process: loads the base model, joins its group, and leads or follows."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import torch

from tuft.config import ModelConfig, ServiceConfig
from tuft.contracts.records import ModelInfo
from tuft.environment import seated
from tuft.modeling.loading import describe_model, load_base, resolve_dtype
from tuft.modeling.lora import inject_lora
from tuft.objects import open_object_store
from tuft.slots import Slot
from tuft.stopping import Stop
from tuft.store import Heartbeat, Store, Tenure, connect
from tuft.training.group import Place, RankGroup, join_group
from tuft.training.inflight import InFlight
from tuft.training.leader import Leader
from tuft.training.memory import activation_bytes
from tuft.training.partitioned import PartitionedBase
from tuft.training.replica import Replica
from tuft.training.waiting import patiently

log = logging.getLogger(__name__)


def run_worker(
    config: ServiceConfig, entry: ModelConfig, folder: Path, store_url: str, stop: Stop
) -> None:
    """Serve one base model until the process is stopped.

    Raises:
        ConfigError: the model can't be served as configured.
        LeaseLost: another trainer group took over (rank 0 only).
    """
    place = join_group()
    torch.set_num_threads(config.trainer.threads or _share_of_cores(place.world_size))
    if place.rank != 0:
        group, _ = _load(config, entry, folder, place)
        # Rank 0 says when it is over.
        stop.graceful(config.limits.stop_grace_s)
        group.follow()
        return
    store = Store(connect(store_url))
    name = f"trainer:{entry.model_name}"
    worker_id = os.environ.get("TUFT_WORKER_ID") or f"{name}@{socket.gethostname()}"
    heartbeat = Heartbeat(store, seated(worker_id), "trainer", entry.model_name)
    group, info = _load(config, entry, folder, place)
    holder = uuid4().hex
    slot = (
        None if config.state_folder is None else Slot(config.state_folder / "slots", name, holder)
    )
    tenure = Tenure(store.workers, name, holder, config.trainer.lease_s, slot)

    def wait() -> None:
        heartbeat.standby()
        log.info("waiting to take over the training of %s", entry.model_name)

    lease = tenure.begin(stop.requested, wait)
    assert lease is not None, "a stop before that ends the process"
    tenure.keep(stop.requested.set)
    stop.graceful(config.limits.stop_grace_s)
    patiently(lambda: store.workers.set_model_info(info))
    if config.state_folder is not None:
        group.inflight = InFlight(config.state_folder / "inflight" / quote(name, safe=""))
    objects = open_object_store(config.object_store)
    leader = Leader(group, store, objects, config, entry.model_name, lease)
    heartbeat.ready()
    log.info("training %s on %d rank(s), %s", entry.model_name, place.world_size, place.device)
    leader.run(stop.requested)
    if tenure.lost is not None:
        raise tenure.lost
    if not stop.orphaned:
        leader.finish(stop.deadline)
    tenure.end()
    log.info("stopped")


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
