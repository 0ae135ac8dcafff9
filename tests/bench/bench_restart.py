"""A full store: from the start of `tuft` to the first operation served, by the number of runs.

The store is a `file_redis` one, as a service leaves it that was killed. One run in it is a real
one, whose client goes on after the restart. The others have an operation history in the journal,
results that are kept, and a checkpoint each in the object store; nothing of theirs is pending.
Such a store with ten times as many runs, and as many operations in each, should start as fast.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import tinker

from tests.bench.bare import RANK, random_rows
from tests.bench.measure import cpu_seconds, report
from tests.bench.stage import TIMEOUT_S, datums, training_step
from tests.e2e.service import Service, running, write_config
from tests.helpers.leases import take_lease
from tests.helpers.tiny_model import VOCAB_SIZE, build_tiny_model
from tests.waiting import wait_until
from tuft.checkpoints import Checkpoints
from tuft.contracts.operations import (
    CreateModel,
    ForwardBackward,
    FutureRecord,
    Operation,
    OptimStep,
)
from tuft.contracts.records import CheckpointManifest, LoraSpec, RunRecord
from tuft.objects import LocalObjects
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, Lease, Outcome, Store, connect
from tuft.supervisor.tree import free_port

FEW, MANY, OPERATIONS = 50, 500, 20
REACH_RATIO = 1.1
_TENANT = "local"
_STEP = OptimStep(
    learning_rate=1e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0, grad_clip_norm=0.0
)


@dataclass(frozen=True)
class Place:
    """A service's folder, and the client of the real run in its store."""

    folder: Path
    config: Path
    port: int
    client: tinker.TrainingClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=MANY)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tuft-bench-") as name:
        model = build_tiny_model(Path(name) / "tiny")
        counts = {"few": FEW, "many": options.many}
        places = {size: _prepare(Path(name) / size, model, count) for size, count in counts.items()}
        seen: dict[str, list[dict[str, float]]] = {size: [] for size in places}
        for number in range(options.rounds + 1):
            for size, place in places.items():
                took = _restart(place)
                told = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in took.items())
                print(f"{counts[size]} runs, {counts[size] * OPERATIONS} operations: {told}")
                if number:  # the first warms the page cache
                    seen[size].append(took)
    for what in seen["few"][0]:
        few, many = (median(took[what] for took in seen[size]) for size in ("few", "many"))
        report(f"{what}, {options.many} runs against {FEW}: ratio", "<=", REACH_RATIO, many / few)


def _prepare(folder: Path, model: Path, runs: int) -> Place:
    folder.mkdir()
    data = folder / "data"
    config = write_config(folder, model, persistence={"mode": "file_redis", "file_path": str(data)})
    port = free_port()
    with running(folder, config, port=port) as service:
        made = tinker.ServiceClient(base_url=service.url, api_key="tml-local-dev-key")
        client = made.create_lora_training_client(base_model="tiny", rank=RANK).result(TIMEOUT_S)
        training_step(client, datums(random_rows([16], VOCAB_SIZE)))()
        _kill(service)
    begun = time.monotonic()
    _fill(folder, data, runs)
    print(f"{runs} runs written in {time.monotonic() - begun:.0f} s")
    return Place(folder, config, port, client)


def _restart(place: Place) -> dict[str, float]:
    """Seconds until the service says that it is ready, and until an operation is served."""
    step = training_step(place.client, datums(random_rows([16], VOCAB_SIZE)))
    begun = time.monotonic()
    with running(place.folder, place.config, port=place.port) as service:
        ready = time.monotonic() - begun
        step()
        served = time.monotonic() - begun
        used = _cpu(service)
        trainer = service.child("tuft.training")
        trainer.kill()
        killed = time.monotonic()
        wait_until(lambda: not trainer.is_running(), 10)
        step()
        again = time.monotonic() - killed
        _kill(service)
    return {
        "tuft ready": ready,
        "first operation": served,
        "CPU until then": used,
        "after a trainer's death": again,
    }


def _cpu(service: Service) -> float:
    """CPU seconds of all processes: unlike time, it is the same on a busy machine."""
    supervisor = psutil.Process(service.process.pid)
    return sum(cpu_seconds(one) for one in [supervisor, *supervisor.children(recursive=True)])


def _kill(service: Service) -> None:
    """As a crash of the machine does, but for its memory."""
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait(30)


def _fill(folder: Path, data: Path, runs: int) -> None:
    """What so many runs leave behind, by the store's own functions."""
    with _opened(data, folder) as store:
        lease = take_lease(store, "trainer:tiny")
        checkpoints = Checkpoints(LocalObjects(folder / "checkpoints"))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: _run(store, lease, checkpoints, n), range(runs)))


def _run(store: Store, lease: Lease, checkpoints: Checkpoints, number: int) -> None:
    lora = LoraSpec(rank=RANK, alpha=32.0, seed=number)
    session = f"bench-{number % 20}"
    record = RunRecord(
        run_id=f"{session}:train:{number}",
        tenant=_TENANT,
        session_id=session,
        base_model="tiny",
        lora=lora,
        created_at=time.time(),
    )
    for seq in range(OPERATIONS):
        body = ForwardBackward(forward_only=False, rows=1, tokens=64) if seq % 2 else _STEP
        op = Operation(
            run_id=record.run_id,
            seq_id=seq,
            digest=f"{seq:064}",
            body=CreateModel(lora=lora) if seq == 0 else body,
            accepted_at=time.time(),
        )
        future = FutureRecord(request_id=op.request_id, tenant=_TENANT, result_type="OptimStep")
        if seq == 0:
            store.runs.create(record, op, future, max_runs=100_000)
        else:
            payload = os.urandom(2000) if seq % 2 else None
            store.journal.accept(
                op, payload, future, writer_epoch=0, proves_earlier=True, max_pending=100
            )
        done = Outcome(future.model_copy(update={"status": "done"}), os.urandom(500))
        store.journal.complete(lease, op, done, result_ttl_s=86_400)
    manifest = CheckpointManifest(
        run=record,
        kind="weights",
        name="last",
        step=OPERATIONS // 2,
        has_optimizer=True,
        created_at=time.time(),
        files={},
    )
    checkpoints.write(manifest, {"adapter_model.safetensors": os.urandom(10_000)})


@contextmanager
def _opened(data: Path, folder: Path) -> Iterator[Store]:
    embedded = EmbeddedStore(PersistenceConfig.from_file_redis(data), folder)
    try:
        yield Store(connect(embedded.start()))
    finally:
        embedded.stop()


if __name__ == "__main__":
    main()
