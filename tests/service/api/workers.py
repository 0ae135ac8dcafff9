"""A trainer and a sampler that answer everything at once, with made-up numbers.

They work through the real store, as the real ones do, so that the real SDK sees whole
operations; what the numbers should be is for the tests of those workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import MODEL, Api, Trainer
from tuft.contracts import wire
from tuft.contracts.operations import (
    ForwardBackward,
    FutureRecord,
    Operation,
    OptimStep,
    SampleOperation,
    SaveWeights,
    SaveWeightsForSampler,
    Tombstone,
)
from tuft.contracts.records import SamplerRecord
from tuft.store import Outcome


@contextmanager
def working(api: Api) -> Iterator[None]:
    """Work on all that comes until the block ends."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=loop, args=(api, stop)) for loop in (_train_loop, _sample_loop)
    ]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


def _train_loop(api: Api, stop: threading.Event) -> None:
    trainer = Trainer(api.store)
    last_id = "0-0"
    poisoned: set[str] = set()
    while not stop.is_set():
        last_id, run_ids = api.store.events.work(MODEL, last_id, 50)
        for run_id in run_ids:
            for entry in trainer.pending(run_id):
                if isinstance(entry, Tombstone):
                    poisoned |= {run_id} if entry.poisons else set()
                    trainer.store.journal.pass_tombstone(trainer.lease, run_id, entry.seq_id)
                else:
                    _train(api, trainer, entry, poisoned)


def _train(api: Api, trainer: Trainer, op: Operation, poisoned: set[str]) -> None:
    body = op.body
    if isinstance(body, ForwardBackward):
        payload = api.store.journal.payload(op)
        if payload is None:
            assert op.payload_object is not None
            payload = api.services.objects.get(op.payload_object)
        request = wire.decode_forward_backward(payload)
        logprobs = [np.zeros(r.inputs["target_tokens"].shape, np.float32) for r in request.rows]
        result = wire.ForwardBackwardResult(logprobs, {"loss:sum": float(len(request.rows))})
        trainer.complete(op, wire.encode_forward_backward_output(result))
    elif isinstance(body, OptimStep):
        error = "a forward_backward before it was refused" if op.run_id in poisoned else None
        poisoned.discard(op.run_id)
        trainer.complete(op, {"metrics": {"grad_norm": 1.0}}, error=error, category="user")
    elif isinstance(body, SaveWeights):
        record = write_checkpoint(api, op.run_id, "weights", body.name, index=False)
        api.store.checkpoints.put(record)
        trainer.complete(op, {"path": record.manifest.path, "type": "save_weights"})
    elif isinstance(body, SaveWeightsForSampler) and body.name is not None:
        record = write_checkpoint(api, op.run_id, "sampler_weights", body.name)
        trainer.complete(op, {"path": record.manifest.path})
    elif isinstance(body, SaveWeightsForSampler):
        assert body.sampler_id is not None
        run = api.store.runs.get(op.run_id)
        sampler = SamplerRecord(
            sampler_id=body.sampler_id,
            tenant=run.tenant,
            session_id=run.session_id,
            base_model=run.base_model,
            policy=f"runs/{run.run_id}/policies/{body.sampler_id}",
            created_at=time.time(),
        )
        api.store.samplers.create(sampler, op.digest)
        trainer.complete(op, {"sampling_session_id": body.sampler_id})
    else:
        kind = "create_model" if body.kind == "create_model" else "load_weights"
        trainer.complete(op, {"model_id": op.run_id, "type": kind})


def _sample_loop(api: Api, stop: threading.Event) -> None:
    while not stop.is_set():
        for claimed in api.store.samples.claim(MODEL, "test", 16, 50):
            future = FutureRecord(
                request_id=claimed.op.request_id,
                tenant=claimed.op.tenant,
                result_type="Sample",
                status="done",
                content="proto",
            )
            outcome = Outcome(future, _sample(claimed.op))
            api.store.samples.complete(claimed, outcome, result_ttl_s=60)


def _sample(op: SampleOperation) -> bytes:
    length = op.params.max_tokens
    sequence = wire.SampledSequence(
        np.arange(length, dtype=np.int32), np.zeros(length, np.float32), "length"
    )
    prompt = np.full(len(op.prompt), -1.0, np.float32)
    prompt[0] = np.nan
    return wire.encode_sample_response(
        wire.SampleResult([sequence] * op.num_samples, prompt if op.prompt_logprobs else None)
    )
