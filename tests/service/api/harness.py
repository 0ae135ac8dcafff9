"""A real api server in a thread, and a trainer and sampler played by hand through the store."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tinker.proto.tinker_public_pb2 as pb

from tests.helpers.leases import take_lease
from tests.waiting import wait_until
from tuft.api.app import create_app
from tuft.api.server import Server
from tuft.api.services import Services, open_services
from tuft.config import ApiKeyConfig, LimitsConfig, ModelConfig, ObjectStoreConfig, ServiceConfig
from tuft.contracts.operations import FutureRecord, Operation, Tombstone
from tuft.contracts.records import CheckpointManifest, ModelInfo
from tuft.errors import Unavailable
from tuft.store import ClaimedSample, Lease, Outcome, Store, connect

MODEL = "tiny/model"
VOCAB = 512
CONTEXT = 64
ALICE = "tml-alice-key"
BOB = "tml-bobs-key"
INFO = ModelInfo(
    model_name=MODEL,
    architecture="Qwen3ForCausalLM",
    tokenizer_id=MODEL,
    vocab_size=VOCAB,
    max_model_len=CONTEXT,
    num_parameters=1000,
    eos_token_ids=[0],
    attn_modules=16,
    mlp_modules=12,
    unembed_modules=1,
)


def config_of(folder: Path, *, keys: bool = True, **limits: Any) -> ServiceConfig:
    """One small model, local objects, tenants alice and bob."""
    entries = [ApiKeyConfig(key=ALICE, tenant="alice"), ApiKeyConfig(key=BOB, tenant="bob")]
    return ServiceConfig(
        supported_models=[ModelConfig(model_name=MODEL, model_path="tiny")],
        object_store=ObjectStoreConfig(path=folder / "objects"),
        api_keys=entries if keys else [],
        limits=LimitsConfig(**{"long_poll_s": 10, **limits}),
    )


@dataclass
class Api:
    """A running api; `http` calls it as alice. `trainer` is played by the test."""

    url: str
    services: Services
    http: httpx.Client
    store: Store
    server: Server

    def stop(self) -> None:
        """What SIGTERM does."""
        self.server.should_exit = True

    def post(self, path: str, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(f"/api/v1/{path}", json=body, headers=headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(f"/api/v1/{path}", headers=headers)

    def bob(self) -> dict[str, str]:
        """Headers of the other tenant."""
        return {"X-API-Key": BOB}

    def session(self, **headers: str) -> str:
        return str(ok(self.post("create_session", {"tags": []}, **headers))["session_id"])

    def run(self, session_id: str | None = None, number: int = 0, rank: int = 8) -> str:
        """Create a training run; it is not completed."""
        body = create_model_body(session_id or self.session(), number, rank=rank)
        return str(ok(self.post("create_model", body))["model_id"])

    def forward_backward(
        self, data: bytes, *, encoding: str | None = None, **headers: str
    ) -> httpx.Response:
        headers["Content-Type"] = "application/x-protobuf"
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        return self.http.post("/api/v1/forward_backward", content=data, headers=headers)

    def retrieve(self, request_id: str, **headers: str) -> httpx.Response:
        return self.post("retrieve_future", {"request_id": request_id}, **headers)


def create_model_body(session_id: str, number: int = 0, **lora: Any) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "model_seq_id": number,
        "base_model": MODEL,
        "lora_config": {"rank": 8, **lora},
        "type": "create_model",
    }


def ok(response: httpx.Response) -> dict[str, Any]:
    """The JSON of a 2xx answer."""
    assert response.is_success, (response.status_code, response.text)
    value = response.json()
    assert isinstance(value, dict)
    return value


def refused(response: httpx.Response, status: int = 400) -> str:
    """The message of an error, whose form the SDK can read."""
    assert response.status_code == status, (response.status_code, response.text)
    # Otherwise the SDK takes it for a proxy's fault and tries again (protocol, trap 10).
    assert int(response.headers["content-length"]) > 0
    body = response.json()
    assert set(body) == {"detail", "code"}
    return str(body["detail"])


@contextmanager
def serving(config: ServiceConfig, store_url: str, *, loaded: bool = True) -> Iterator[Api]:
    """Serve in a thread until the block ends; with `loaded`, a trainer described the model."""
    store = Store(connect(store_url))
    if loaded:
        store.workers.set_model_info(INFO)
    services = open_services(config, store_url)
    # With the protocol named, asyncio switches Nagle's algorithm off, as it does for uvicorn's own.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        server = Server(create_app(services), services.waiters, "127.0.0.1", port)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started or not thread.is_alive(), 10, "the api listens")
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"X-API-Key": ALICE}, timeout=30) as http:
            yield Api(url, services, http, store, server)
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@dataclass
class Trainer:
    """Completes operations as a test says; the store is a real one."""

    store: Store
    lease: Lease = field(init=False)

    def __post_init__(self) -> None:
        self.lease = take_lease(self.store, f"trainer:{MODEL}")

    def pending(self, run_id: str) -> list[Operation | Tombstone]:
        """What is next in order; what stands behind a gap is not seen."""
        return self.store.journal.entries(run_id, self.store.runs.status(run_id).cursor, 100)

    def complete(
        self,
        operation: Operation | Tombstone,
        body: bytes | dict[str, Any] = b"{}",
        *,
        error: str | None = None,
        save: CheckpointManifest | None = None,
        **future: Any,
    ) -> None:
        """Finish the next operation with a JSON object, protobuf bytes, or an error."""
        assert isinstance(operation, Operation)
        content = "proto" if isinstance(body, bytes) else "json"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        record = FutureRecord(
            request_id=operation.request_id,
            tenant=self.store.runs.get(operation.run_id).tenant,
            result_type="Any",
            status="done" if error is None else "failed",
            error=error,
            **{"content": content, **future},
        )
        outcome = Outcome(record, None if error or record.body_object else data)
        self.store.journal.complete(self.lease, operation, outcome, (), result_ttl_s=60)

    def complete_all(self, run_id: str) -> None:
        for entry in self.pending(run_id):
            if isinstance(entry, Tombstone):
                self.store.journal.pass_tombstone(self.lease, run_id, entry.seq_id)
            else:
                self.complete(entry, {"type": "done"})


def batch(
    run_id: str,
    seq_id: int,
    *,
    rows: int = 1,
    tokens: list[int] | None = None,
    targets: list[int] | None = None,
    loss_fn: str = "cross_entropy",
    forward_only: bool = False,
    change: Callable[[Any], None] | None = None,
    **inputs: list[float],
) -> bytes:
    """A serialized ForwardBackwardRequest; `change` may spoil the message."""
    message = pb.ForwardBackwardRequest(
        model_id=run_id, seq_id=seq_id, loss_fn=loss_fn, forward_only=forward_only
    )
    ids = [5, 6, 7, 8] if tokens is None else tokens
    for _ in range(rows):
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = np.asarray(ids, "<i4").tobytes()
        tensor(datum, "target_tokens", ids if targets is None else targets, "<i8")
        for name, values in inputs.items():
            tensor(datum, name, values, "<f4")
    if change is not None:
        change(message)
    data = message.SerializeToString()
    assert isinstance(data, bytes)
    return data


def tensor(datum: Any, name: str, values: list[Any], dtype: str) -> None:
    entry = datum.loss_fn_inputs[name]
    entry.dense = np.asarray(values, dtype).tobytes()
    entry.dtype = pb.DTYPE_INT64 if dtype == "<i8" else pb.DTYPE_FLOAT32
    entry.shape.extend(np.asarray(values).shape)


def base_sampler(api: Api, **headers: str) -> str:
    """A sampling session of the base model."""
    body = {
        "session_id": api.session(**headers),
        "sampling_session_seq_id": 0,
        "base_model": MODEL,
    }
    return str(ok(api.post("create_sampling_session", body, **headers))["sampling_session_id"])


def sample_body(sampler_id: str, seq_id: int = 0, **changes: Any) -> dict[str, Any]:
    prompt = changes.pop("prompt", [1, 2, 3])
    params = {"max_tokens": 4, "temperature": 1.0, **changes.pop("params", {})}
    return {
        "sampling_session_id": sampler_id,
        "seq_id": seq_id,
        "num_samples": 1,
        "prompt": {"chunks": [{"tokens": prompt, "type": "encoded_text"}]},
        "sampling_params": params,
        "type": "sample",
        **changes,
    }


def claim_sample(store: Store, request_id: str) -> ClaimedSample:
    """A sample operation as a sampler would get it; those of other tests are passed over."""
    while claimed := store.samples.claim(MODEL, "test", 1, 1000):
        if claimed[0].op.request_id == request_id:
            return claimed[0]
    raise AssertionError(f"{request_id} is not in the queue")


def is_away(store: Store) -> bool:
    try:
        store.ping()
    except Unavailable:
        return True
    return False
