"""`python -m tuft.sampling`: one sampler process of one base model.

Environment: TUFT_CONFIG (the service's configuration as JSON), TUFT_STORE_URL, TUFT_MODEL, and
optionally TUFT_SEAT and TUFT_WORKER_ID, the worker's name in the queue: stable over restarts, so that a
restarted worker goes on at once with what it had; unlike every other sampler's of this model.
By default it is made of the host's name. Of processes with one name and one `state_folder` the
first works, and the others wait until it ends.

On SIGTERM it finishes what it is doing within `limits.stop_grace_s`, and hands back the rest.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from pathlib import Path

from tuft.checkpoints import Checkpoints
from tuft.checkpoints.handover import Handover
from tuft.config import ModelConfig, ServiceConfig
from tuft.environment import EX_CONFIG, base_model, required, seated, service_config
from tuft.errors import ConfigError, TuftError
from tuft.objects import open_object_store
from tuft.sampling.background import Background
from tuft.sampling.engine import Engine
from tuft.sampling.policies import Policies
from tuft.sampling.worker import Worker
from tuft.slots import Slot
from tuft.stopping import Stop
from tuft.store import Heartbeat, Store, connect

log = logging.getLogger("tuft.sampling")

_LOOK_AT_SLOT_S = 0.05


def main() -> int:
    """Run until SIGTERM or SIGINT; the process' exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    stop = Stop()
    try:
        config = service_config()
        _run(config, *base_model(config), stop)
    except ConfigError as error:
        print(f"tuft.sampling: {error.message}", file=sys.stderr)
        return EX_CONFIG
    return 0


def _run(config: ServiceConfig, model: ModelConfig, folder: Path, stop: Stop) -> None:
    store = Store(connect(required("TUFT_STORE_URL")))
    name = os.environ.get("TUFT_WORKER_ID") or f"sampler:{model.model_name}@{socket.gethostname()}"
    heartbeat = Heartbeat(store, seated(name), "sampler", model.model_name)
    engine = _engine(config, model, folder)
    # The engine may have processes of its own, which are to be ended too.
    stop.graceful(config.limits.stop_grace_s)
    slot = Slot(config.state_folder / "slots", name, name) if config.state_folder else None
    try:
        if _wait_for(slot, heartbeat, stop.requested):
            worker = _worker(config, model, store, name, engine)
            heartbeat.ready()
            log.info("sampling from %s", model.model_name)
            worker.run(stop.requested)
            _end(worker, name, slot if config.sampler.standby else None, stop)
    finally:
        engine.close()


def _wait_for(slot: Slot | None, heartbeat: Heartbeat, stop: threading.Event) -> bool:
    """Whether the slot is ours now; False where it is not worth it any more."""
    if slot is None or slot.take():
        return not stop.is_set()
    heartbeat.standby()
    log.info("waiting to take over")
    while not slot.take():
        if stop.wait(_LOOK_AT_SLOT_S):
            return False
    return not stop.is_set()


def _end(worker: Worker, name: str, slot: Slot | None, stop: Stop) -> None:
    """`slot`: where another process waits for it, which may go on at once."""
    if stop.orphaned:
        return
    worker.hand_back(None if slot is None else f"{name}/{os.getpid()}")
    if slot is not None:
        slot.release()
    worker.finish(stop.deadline)


def _worker(
    config: ServiceConfig, model: ModelConfig, store: Store, name: str, engine: Engine
) -> Worker:
    objects = open_object_store(config.object_store)
    background = Background()
    handover = config.handover_folder
    policies = Policies(
        engine,
        Checkpoints(objects),
        background,
        config.sampler.max_resident_adapters,
        None if handover is None else Handover(handover),
    )
    return Worker(
        base_model=model.model_name,
        consumer=name,
        engine=engine,
        store=store,
        objects=objects,
        policies=policies,
        background=background,
        limits=config.limits,
    )


def _engine(config: ServiceConfig, model_config: ModelConfig, folder: Path) -> Engine:
    """The configured engine."""
    if config.sampler.engine == "vllm":
        from tuft.sampling.vllm_options import start_vllm

        return start_vllm(config, model_config, folder)

    import torch

    from tuft.modeling.loading import describe_model, load_base
    from tuft.sampling.detokenizer import load_detokenizer
    from tuft.sampling.memory import cells_that_fit
    from tuft.sampling.transformers_engine import TransformersEngine

    if config.sampler.threads is not None:
        torch.set_num_threads(config.sampler.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_base(folder, model_config.dtype, device)
    return TransformersEngine(
        model,
        describe_model(model, model_config),
        load_detokenizer(folder),
        max_sequences=config.sampler.max_running_sequences,
        max_cells=config.sampler.cache_tokens or cells_that_fit(model),
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TuftError:
        log.exception("the sampler ends")
        sys.exit(1)
