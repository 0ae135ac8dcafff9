"""`python -m tuft.sampling`, as the supervisor starts it, on a real Valkey."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tinker.proto import tinker_public_pb2 as pb

from tests.service.sampling.harness import MODEL, ask, info_of, run
from tests.waiting import wait_until
from tuft.config import ModelConfig, ObjectStoreConfig, ServiceConfig
from tuft.contracts.operations import FutureRecord, SampleOperation
from tuft.modeling.loading import load_base
from tuft.objects import open_object_store
from tuft.sampling.transformers_engine import TransformersEngine
from tuft.store import Store, connect

PROMPT = [5, 17, 300, 42]


class Process:
    """Starts the worker again and again under one configuration."""

    def __init__(self, folder: Path, store_url: str, model_folder: Path) -> None:
        objects = ObjectStoreConfig(path=folder / "objects")
        self.objects = open_object_store(objects)
        self.config = ServiceConfig(
            supported_models=[
                ModelConfig(
                    model_name=MODEL, model_path=str(model_folder), resolved_folder=model_folder
                )
            ],
            object_store=objects,
        )
        self.config_file = folder / "config.json"
        self.config_file.write_text(self.config.model_dump_json())
        self.log_file = folder / "log"
        self.env = {
            **os.environ,
            "TUFT_CONFIG": str(self.config_file),
            "TUFT_STORE_URL": store_url,
            "TUFT_MODEL": MODEL,
            "OMP_NUM_THREADS": "1",
        }
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, **env: str) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "tuft.sampling"],
                env={**self.env, **env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.children.append(child)
        return child

    def configure(self, **sections: Any) -> None:
        """Other settings, for processes that start from now on."""
        config = ServiceConfig.model_validate({**self.config.model_dump(), **sections})
        self.config_file.write_text(config.model_dump_json())

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def store(valkey_url: str) -> Iterator[Store]:
    client = connect(valkey_url)
    yield Store(client)
    client.close()


@pytest.fixture
def process(tmp_path: Path, valkey_url: str, tiny_model_folder: Path) -> Iterator[Process]:
    made = Process(tmp_path, valkey_url, tiny_model_folder)
    yield made
    made.end()


def accept(store: Store, op: SampleOperation) -> None:
    future = FutureRecord(request_id=op.request_id, tenant=op.tenant, result_type="Sample")
    store.samples.accept(op, future, max_pending=100)


def is_done(store: Store, op: SampleOperation) -> bool:
    return store.futures.get(op.request_id)[0].status == "done"


def is_ready(store: Store) -> bool:
    return [(s.role, s.base_model, s.state) for s in store.workers.statuses()] == [
        ("sampler", MODEL, "ready")
    ]


def response(process: Process, store: Store, op: SampleOperation) -> pb.SampleResponse:
    wait_until(lambda: is_done(store, op), 60, f"{op.request_id} done")
    future, body = store.futures.get(op.request_id)
    if future.body_object is not None:
        body = process.objects.get(future.body_object)
    assert body is not None
    message = pb.SampleResponse()
    message.ParseFromString(body)
    return message


def test_killed_in_the_middle_it_serves_everything_after_its_restart(
    process: Process, store: Store, tiny_model_folder: Path
) -> None:
    child = process.start()
    wait_until(lambda: is_ready(store), 60, "the sampler ready")
    long = ask(PROMPT, seed=7, max_tokens=250, num_samples=40)
    short = ask(PROMPT, max_tokens=2)
    for op in (long, short):
        accept(store, op)
    # Both run in one batch: when the short one is done, the long one is on its way.
    wait_until(lambda: is_done(store, short), 60, "the short one done")
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not is_done(store, long)
    late = ask(PROMPT, max_tokens=2)
    accept(store, late)

    process.start()
    assert len(response(process, store, late).sequences) == 1
    got = response(process, store, long)
    model = load_base(tiny_model_folder, "float32", "cpu")
    engine = TransformersEngine(model, info_of(model), None, max_sequences=64, max_cells=1 << 20)
    expected = run(engine, long)[0]
    assert [bytes(each.tokens) for each in got.sequences] == [
        each.tokens.astype("<i4").tobytes() for each in expected.sequences
    ]


def test_stops_with_what_runs_done_and_the_rest_handed_back(process: Process, store: Store) -> None:
    process.configure(sampler={"max_running_sequences": 2})
    child = process.start()
    wait_until(lambda: is_ready(store), 60, "the sampler ready")
    accepted = [ask(PROMPT, max_tokens=tokens) for tokens in (2, *[200] * 6)]
    for op in accepted:
        accept(store, op)
    wait_until(lambda: is_done(store, accepted[0]), 60, "the short one done")
    child.terminate()
    assert child.wait(20) == 0
    done = [op for op in accepted if is_done(store, op)]
    assert 2 <= len(done) < len(accepted)
    # Nobody has to wait for the others: another sampler takes them as new ones.
    left = store.samples.claim(MODEL, "another", 9, 0)
    assert [*done, *[claimed.op for claimed in left]] == accepted
    assert not store.samples.reclaim(MODEL, f"sampler:{MODEL}@{socket.gethostname()}")


@pytest.mark.slow
def test_a_stop_that_takes_too_long_hands_back_what_runs(process: Process, store: Store) -> None:
    process.configure(limits={"stop_grace_s": 0.5})
    child = process.start()
    wait_until(lambda: is_ready(store), 60, "the sampler ready")
    long, short = ask(PROMPT, max_tokens=250, num_samples=60), ask(PROMPT, max_tokens=2)
    for op in (long, short):
        accept(store, op)
    wait_until(lambda: is_done(store, short), 60, "the short one done")
    begun = time.monotonic()
    child.terminate()
    assert child.wait(10) == 0
    assert time.monotonic() - begun < 5
    assert not is_done(store, long)
    (claimed,) = store.samples.claim(MODEL, "another", 9, 0)
    assert claimed.op == long


@pytest.mark.slow
def test_one_that_waits_for_the_slot_goes_on_when_the_other_is_killed(
    process: Process, store: Store, tmp_path: Path
) -> None:
    process.configure(state_folder=tmp_path / "state", sampler={"standby": True})
    first = process.start(TUFT_SEAT="1")
    wait_until(lambda: is_ready(store), 60, "the sampler ready")
    second = process.start(TUFT_SEAT="2")
    wait_until(lambda: {s.state for s in store.workers.statuses()} == {"ready", "standby"}, 60)
    long, short = ask(PROMPT, max_tokens=250, num_samples=40), ask(PROMPT, max_tokens=2)
    for op in (long, short):
        accept(store, op)
    wait_until(lambda: is_done(store, short), 60, "the short one done")
    first.kill()
    late = ask(PROMPT, max_tokens=2)
    accept(store, late)
    response(process, store, late)
    assert len(response(process, store, long).sequences) == 40
    second.terminate()
    assert second.wait(10) == 0


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TUFT_MODEL": "other"}, "TUFT_MODEL 'other' is not configured; there is: tiny"),
        ({"TUFT_STORE_URL": ""}, "TUFT_STORE_URL is not set"),
        ({"TUFT_CONFIG": "/nonexistent"}, "can't read TUFT_CONFIG /nonexistent"),
    ],
)
def test_wrong_surroundings_end_it_with_the_reason(
    process: Process, env: dict[str, str], message: str
) -> None:
    assert process.start(**env).wait(60) == 78
    assert message in process.log_file.read_text()
