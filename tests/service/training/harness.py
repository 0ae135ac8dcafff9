"""A client that writes into the journal as the api does, and trainers that work it off."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tinker.proto import tinker_public_pb2 as pb

from tests.waiting import wait_until
from tuft.checkpoints import Checkpoints
from tuft.config import ModelConfig, ObjectStoreConfig, ServiceConfig
from tuft.contracts.operations import (
    ClearGradients,
    CreateFromCheckpoint,
    CreateModel,
    ForwardBackward,
    FutureRecord,
    LoadWeights,
    Operation,
    OperationBody,
    OptimStep,
    SaveWeights,
    SaveWeightsForSampler,
    Tombstone,
    digest_of,
)
from tuft.contracts.records import LoraSpec, RunRecord
from tuft.contracts.wire import Row
from tuft.objects import LocalObjects, ObjectStore, open_object_store
from tuft.store import Store, connect
from tuft.training.commands import RowGroup
from tuft.training.leader import Leader, result_type_of

MODEL = "test/tiny"
SPEC = LoraSpec(rank=4, alpha=32, seed=7)
_names = itertools.count()


@dataclass(frozen=True)
class Datum:
    """One row as a client has it."""

    tokens: Sequence[int]
    targets: npt.NDArray[np.int64]
    inputs: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def random_data(
    seed: int, rows: int, *, longest: int = 24, spread: Mapping[str, float] = {}
) -> list[Datum]:
    """Random rows of 3 to `longest` tokens; `spread`: names of float inputs, and theirs."""
    rng = np.random.default_rng(seed)
    data = []
    for _ in range(rows):
        length = int(rng.integers(3, longest + 1))
        inputs = {
            name: (rng.standard_normal(length) * width).astype(np.float32)
            for name, width in spread.items()
        }
        if "logprobs" in inputs:
            inputs["logprobs"] -= 6.0  # about what a random model says of a random token
        tokens = rng.integers(0, 512, length + 1)
        data.append(Datum(tokens[:-1].tolist(), tokens[1:].astype(np.int64), inputs))
    return data


def payload_of(
    run_id: str,
    seq_id: int,
    data: Sequence[Datum],
    loss_fn: str,
    config: Mapping[str, float],
    forward_only: bool,
) -> bytes:
    message = pb.ForwardBackwardRequest(
        model_id=run_id, seq_id=seq_id, loss_fn=loss_fn, forward_only=forward_only
    )
    for key, value in config.items():
        message.loss_fn_config_v2[key].number = value
    for datum in data:
        out = message.data.add()
        chunk = out.model_input.add()
        chunk.encoded_text.tokens = np.array(datum.tokens, dtype="<i4").tobytes()
        tensors = {"target_tokens": (datum.targets.astype("<i8"), pb.DTYPE_INT64)}
        for name, array in datum.inputs.items():
            tensors[name] = (array.astype("<f4"), pb.DTYPE_FLOAT32)
        for name, (array, dtype) in tensors.items():
            tensor = out.loss_fn_inputs[name]
            tensor.dense, tensor.dtype = array.tobytes(), dtype
            tensor.shape.extend(array.shape)
    return bytes(message.SerializeToString())


def row_group(
    run_id: str, data: Sequence[Datum], loss_fn: str = "cross_entropy", *, backward: bool = True
) -> RowGroup:
    """What the ranks get of an operation with these rows."""
    rows = [
        Row(np.array(each.tokens, dtype=np.int32), {"target_tokens": each.targets, **each.inputs})
        for each in data
    ]
    return RowGroup(run_id, rows, loss_fn, {}, backward)


@dataclass
class World:
    """Store, object store and configuration that clients and trainers of a test share."""

    store_url: str
    config: ServiceConfig

    def __post_init__(self) -> None:
        self.store = Store(connect(self.store_url))
        self.objects: ObjectStore = open_object_store(self.config.object_store)
        assert self.config.state_folder is not None
        self.snapshot_store: ObjectStore = LocalObjects(self.config.state_folder / "snapshots")

    @classmethod
    def create(cls, store_url: str, folder: Path, model_folder: Path, **settings: Any) -> World:
        """`settings`: sections of the configuration, as mappings."""
        trainer = {"threads": 1, **settings.pop("trainer", {})}
        config = ServiceConfig(
            supported_models=[
                ModelConfig(
                    model_name=MODEL,
                    model_path=str(model_folder),
                    resolved_folder=model_folder,
                )
            ],
            object_store=ObjectStoreConfig(path=folder / "objects"),
            state_folder=folder / "state",
            **{"trainer": trainer, **settings},
        )
        return cls(store_url, config)

    def client(
        self, spec: LoraSpec = SPEC, name: str | None = None, tenant: str = "tenant-a"
    ) -> Client:
        name = name or f"run{next(_names)}"
        run = RunRecord(
            run_id=f"{name}:train:0",
            tenant=tenant,
            session_id=name,
            base_model=MODEL,
            lora=spec,
            created_at=time.time(),
        )
        return Client(self, run)


@dataclass
class Client:
    """One training run, from its owner's side. Every method returns the request id."""

    world: World
    run: RunRecord
    next_seq: int = 0

    def create(self, body: OperationBody | None = None) -> str:
        op = self._operation(body or CreateModel(lora=self.run.lora))
        self.world.store.runs.create(self.run, op, self._future(op), max_runs=100)
        return op.request_id

    def create_from(self, path: str, prefix: str, *, optimizer: bool = True) -> str:
        body = CreateFromCheckpoint(path=path, prefix=prefix, optimizer=optimizer)
        return self.create(body)

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        *,
        forward_only: bool = False,
        as_object: bool = False,
        **config: float,
    ) -> str:
        run_id, seq = self.run.run_id, self.next_seq
        payload = payload_of(run_id, seq, data, loss_fn, config, forward_only)
        tokens = sum(len(datum.tokens) for datum in data)
        body = ForwardBackward(forward_only=forward_only, rows=len(data), tokens=tokens)
        key = None
        if as_object:
            key = f"payloads/{run_id}/{seq}-0123456789abcdef"
            self.world.objects.put(key, payload)
        return self._accept(self._operation(body, key), None if as_object else payload)

    def optim_step(self, learning_rate: float = 1e-3, **settings: float) -> str:
        values = {
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-12,
            "weight_decay": 0.0,
            "grad_clip_norm": 0.0,
            **settings,
        }
        return self._accept(
            self._operation(OptimStep.model_validate({"learning_rate": learning_rate, **values}))
        )

    def clear_gradients(self) -> str:
        return self._accept(self._operation(ClearGradients()))

    def save(self, name: str, **settings: Any) -> str:
        return self._accept(self._operation(SaveWeights(name=name, **settings)))

    def save_for_sampler(self, name: str | None, sampler_id: str | None = None) -> str:
        body = SaveWeightsForSampler(name=name, sampler_id=sampler_id)
        return self._accept(self._operation(body))

    def load(self, path: str, prefix: str, *, optimizer: bool = True) -> str:
        body = LoadWeights(path=path, prefix=prefix, optimizer=optimizer)
        return self._accept(self._operation(body))

    def refuse(self, reason: str, *, poisons: bool = True) -> None:
        """Burn the next seq_id, as the api does for a request that it refuses for good."""
        tombstone = Tombstone(
            run_id=self.run.run_id, seq_id=self.next_seq, reason=reason, poisons=poisons
        )
        self.next_seq += 1
        self.world.store.journal.refuse(tombstone, writer_epoch=0)

    def skip(self) -> None:
        """Leave a gap."""
        self.next_seq += 1

    def files(self, name: str) -> dict[str, bytes]:
        """Of a saved training checkpoint, verified."""
        checkpoints = Checkpoints(self.world.objects)
        return checkpoints.read_files(checkpoints.prefix_of(self.run.run_id, "weights", name))

    def prefix(self, name: str) -> str:
        return Checkpoints.prefix_of(self.run.run_id, "weights", name)

    def _operation(self, body: OperationBody, payload_object: str | None = None) -> Operation:
        seq = self.next_seq
        self.next_seq += 1
        return Operation(
            run_id=self.run.run_id,
            seq_id=seq,
            digest=digest_of(body.model_dump_json(), str(seq)),
            body=body,
            accepted_at=time.time(),
            payload_object=payload_object,
        )

    def _future(self, op: Operation) -> FutureRecord:
        return FutureRecord(
            request_id=op.request_id, tenant=self.run.tenant, result_type=result_type_of(op)
        )

    def _accept(self, op: Operation, payload: bytes | None = None) -> str:
        self.world.store.journal.accept(
            op,
            payload,
            self._future(op),
            writer_epoch=0,
            proves_earlier=False,
            max_pending=1000,
            max_behind_snapshot=self.world.config.limits.max_journal_operations,
        )
        return op.request_id


class Failed(Exception):
    """A failed future; its text is the error."""

    def __init__(self, future: FutureRecord) -> None:
        super().__init__(future.error)
        self.category = future.category


def result_of(world: World, request_id: str) -> Any:
    """The body of a done future: decoded JSON or ForwardBackwardOutput. Raises Failed."""
    future, body = world.store.futures.get(request_id)
    if future.status == "failed":
        raise Failed(future)
    assert future.status == "done"
    if future.body_object is not None:
        body = world.objects.get(future.body_object)
    assert body is not None
    if future.content == "json":
        return json.loads(body)
    message = pb.ForwardBackwardOutput()
    message.ParseFromString(body)
    return message


def logprobs_of(output: Any) -> list[npt.NDArray[np.float32]]:
    """Per datum, as the SDK unpacks them."""
    found = []
    for record in output.loss_fn_outputs:
        tensor = record.fields["logprobs"]
        offsets = np.frombuffer(tensor.offsets, dtype="<i8")
        for start, end in itertools.pairwise(offsets.tolist()):
            flat = np.frombuffer(tensor.data[start:end], dtype="<f4")
            found.append(flat.reshape(-1, *tensor.trailing_shape))
    return found


class Trainer:
    """A leader in this process, driven turn by turn."""

    def __init__(self, world: World, leader: Leader) -> None:
        self.world = world
        self.leader = leader
        leader.look_everywhere()

    def result(self, request_id: str, timeout_s: float = 30) -> Any:
        """Work until this request is done, and what it gave. Raises Failed."""
        deadline = time.monotonic() + timeout_s
        while self.world.store.futures.get(request_id)[0].status == "pending":
            assert time.monotonic() < deadline, f"{request_id} is still pending"
            self.leader.turn()
        return result_of(self.world, request_id)

    def until_saved(self, run_id: str, timeout_s: float = 30) -> None:
        """Work until the snapshot of the run that is being written is there."""
        deadline = time.monotonic() + timeout_s
        while (state := self.leader.state(run_id)) is not None and state.being_saved:
            assert time.monotonic() < deadline, f"the snapshot of {run_id} is not written"
            self.leader.snapshotting.poll()
            time.sleep(0.001)

    def all(self, *request_ids: str) -> list[Any]:
        return [self.result(request_id) for request_id in request_ids]


@contextmanager
def trainer_processes(
    world: World, folder: Path, ranks: int = 1, nodes: int = 1
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A trainer group of real processes, ready for work when the block begins (or ready to take
    over, where another one leads).

    `nodes`: machines that the ranks are on, as far as their environment says.
    """
    config_file = folder / "config.json"
    config_file.write_text(world.config.model_dump_json())
    environment = {
        **os.environ,
        "TUFT_CONFIG": str(config_file),
        "TUFT_STORE_URL": world.store_url,
        "TUFT_MODEL": MODEL,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # A compiler would be found missing here, if DeepSpeed were to compile something.
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "CXX": "/nonexistent/c++",
    }
    children = []
    try:
        for rank in range(ranks):
            with (folder / f"rank{rank}.log").open("ab") as log:
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tuft.training"],
                        env={
                            **environment,
                            "RANK": str(rank),
                            "LOCAL_RANK": str(rank % (ranks // nodes)),
                        },
                        stdout=log,
                        stderr=log,
                    )
                )

        def ready() -> bool:
            for rank, child in enumerate(children):
                log_text = (folder / f"rank{rank}.log").read_text()
                assert child.poll() is None, log_text
            # The worker's report may still be that of its life before; its log is its own.
            said = (folder / "rank0.log").read_text()
            return "rank(s), " in said or "waiting to take over" in said

        wait_until(ready, 30 + 30 * ranks, "trainer processes are ready")
        yield children
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_result(world: World, request_id: str, timeout_s: float = 60) -> Any:
    """What trainer processes gave. Raises Failed."""
    wait_until(
        lambda: world.store.futures.get(request_id)[0].status != "pending", timeout_s, request_id
    )
    return result_of(world, request_id)
