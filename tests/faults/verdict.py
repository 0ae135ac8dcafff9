"""Whether a training run under faults is what it would have been without."""

from __future__ import annotations

import hashlib
import time

import httpx
import numpy as np
import numpy.typing as npt
import tinker
from safetensors.numpy import load

from tests.faults.moves import (
    RANK,
    TIMEOUT_S,
    ForwardBackward,
    Journal,
    LoadState,
    Operation,
    OptimStep,
    SaveState,
)
from tuft.checkpoints import Checkpoints
from tuft.objects import ObjectStore

FINAL = "final"
_TOLERANCE = 1e-5
"""Of each tensor's norm, where rows of several runs were computed together."""

Tensors = dict[str, npt.NDArray[np.float32]]


class Results:
    """What the service says about finished requests, each time the same."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.Client(
            base_url=f"{url}/api/v1", headers={"X-API-Key": key}, timeout=60
        )
        self._digests: dict[str, str] = {}

    def look(self, run_id: str, seq_ids: list[int], *, again: bool = False) -> list[str]:
        """Fetch the results that were not looked at yet (or all, `again`); what has changed."""
        changed = []
        for seq_id in seq_ids:
            request_id = f"{run_id}:{seq_id}"
            known = self._digests.get(request_id)
            if known is None or again:
                digest = self._digest(request_id)
                if known not in (None, digest):
                    changed.append(f"the result of {request_id} has changed")
                self._digests[request_id] = digest
        return changed

    def __len__(self) -> int:
        return len(self._digests)

    def close(self) -> None:
        self._client.close()

    def _digest(self, request_id: str) -> str:
        give_up_at = time.monotonic() + TIMEOUT_S
        while True:
            try:
                reply = self._client.post("/retrieve_future", json={"request_id": request_id})
                if reply.status_code == 200:
                    return hashlib.sha256(reply.content).hexdigest()
                problem = f"{reply.status_code}: {reply.text[:300]}"
            except httpx.TransportError as error:
                problem = str(error)
            if time.monotonic() > give_up_at:
                raise AssertionError(f"no result of {request_id}: {problem}")
            time.sleep(0.2)


def repeat(url: str, key: str, seed: int, journal: Journal) -> Journal:
    """All of a run's operations in a new run of a service that nobody disturbs."""
    with tinker.ServiceClient(base_url=url, api_key=key) as client:
        training = client.create_lora_training_client("tiny", rank=RANK, seed=seed)
        again = Journal(training.result(TIMEOUT_S))
        batch: list[Operation] = []
        for record in journal.records:
            if isinstance(record.operation, LoadState):
                # What it loads must be there when it is asked for.
                again.do(*batch)
                batch = []
            batch.append(record.operation)
        again.do(*batch)
        return again


def miscounted(journal: Journal) -> list[str]:
    """Optimizer steps that were lost or applied twice, by the numbers that the service gave."""
    found, step = [], 0
    saved: dict[str, int] = {}
    for record in journal.records:
        match record.operation:
            case OptimStep():
                step += 1
                if record.step != step:
                    found.append(f"optim_step {record.seq_id} says {record.step}, not {step}")
                    step = round(record.step or 0)
            case SaveState(name):
                saved[name] = step
            case LoadState(name):
                step = saved[name]
            case ForwardBackward():
                pass
    return found


def differing(
    journal: Journal, again: Journal, mine: ObjectStore, undisturbed: ObjectStore, *, exact: bool
) -> list[str]:
    """Where results and final weights are not those of the undisturbed run."""
    found = []
    for record, other in zip(journal.records, again.records, strict=True):
        if isinstance(record.operation, ForwardBackward):
            pairs = zip(record.logprobs, other.logprobs, strict=True)
            if exact:
                same = all(np.array_equal(a, b) for a, b in pairs) and record.loss == other.loss
            else:
                same = all(np.allclose(a, b, atol=1e-3) for a, b in pairs)
            if not same:
                found.append(
                    f"seq_id {record.seq_id}: loss {record.loss}, undisturbed {other.loss}"
                )
    ours = final_tensors(mine, journal.training.model_id)
    theirs = final_tensors(undisturbed, again.training.model_id)
    if ours.keys() != theirs.keys():
        found.append(f"final tensors: {sorted(ours.keys() ^ theirs.keys())}")
        return found
    for name, tensor in ours.items():
        same = np.array_equal(tensor, theirs[name])
        off = distance(tensor, theirs[name])
        if not (same if exact else is_moment(name) or off <= _TOLERANCE):
            found.append(f"{name} differs by {off:.2g} of its norm")
    return found


def largest_difference(
    journal: Journal, again: Journal, mine: ObjectStore, undisturbed: ObjectStore
) -> float:
    """Of any final weight tensor, as a part of its norm."""
    ours = final_tensors(mine, journal.training.model_id)
    theirs = final_tensors(undisturbed, again.training.model_id)
    return max(distance(ours[name], theirs[name]) for name in theirs if not is_moment(name))


def distance(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Of the norm."""
    norm = float(np.linalg.norm(other.astype(np.float64)))
    off = float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))
    return off / norm if norm else off


def is_moment(name: str) -> bool:
    """Whether a tensor is the optimizer's."""
    return name.startswith("optimizer.safetensors:")


def final_tensors(objects: ObjectStore, run_id: str) -> Tensors:
    """Weights and optimizer of the checkpoint FINAL."""
    checkpoints = Checkpoints(objects)
    files = checkpoints.read_files(checkpoints.prefix_of(run_id, "weights", FINAL))
    return {
        f"{file}:{tensor}": value
        for file, data in files.items()
        if file.endswith(".safetensors")
        for tensor, value in load(data).items()
    }
