"""The worker on a real store and a real object store, with a real engine."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tinker.proto import tinker_public_pb2 as pb

from tests.helpers.forwarder import forwarding
from tests.helpers.s3_server import S3Server
from tests.service.sampling.harness import MODEL, ask, info_of, policy_files
from tests.waiting import wait_until
from tuft.checkpoints import Checkpoints
from tuft.config import LimitsConfig, ObjectStoreConfig
from tuft.contracts.operations import FutureRecord, SampleOperation
from tuft.contracts.policies import policy_name
from tuft.contracts.records import CheckpointManifest, LoraSpec, RunRecord
from tuft.modeling.loading import load_base
from tuft.objects import ObjectStore, open_object_store
from tuft.persistence import PersistenceConfig
from tuft.sampling.background import Background
from tuft.sampling.policies import Policies
from tuft.sampling.transformers_engine import TransformersEngine
from tuft.sampling.worker import Worker
from tuft.store import EmbeddedStore, Store, connect
from tuft.supervisor.tree import free_port

CONSUMER = "sampler:tiny@here"
PROMPT = [5, 17, 300, 42]


@pytest.fixture
def store(valkey_url: str) -> Iterator[Store]:
    client = connect(valkey_url)
    yield Store(client)
    client.close()


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_object_store(ObjectStoreConfig(), tmp_path / "objects")


@pytest.fixture
def model(tiny_model_folder: Path) -> Any:
    return load_base(tiny_model_folder, "float32", "cpu")


class Setting:
    """A worker's surroundings; `working` runs one in a thread."""

    def __init__(self, model: Any, store: Store, objects: ObjectStore) -> None:
        self.store = store
        self.objects = objects
        self.checkpoints = Checkpoints(objects)
        self.engine = TransformersEngine(
            model, info_of(model), None, max_sequences=8, max_cells=1 << 16
        )

    def accept(self, op: SampleOperation) -> str:
        future = FutureRecord(
            request_id=op.request_id, tenant=op.tenant, result_type="Sample", content="proto"
        )
        self.store.samples.accept(op, future, max_pending=100)
        return op.request_id

    @contextmanager
    def working(
        self, limit: int = 4, inline: int = 65536, *, ending: bool = False
    ) -> Iterator[Policies]:
        """`ending`: at the end it finishes what it has begun."""
        background = Background()
        policies = Policies(self.engine, self.checkpoints, background, limit)
        worker = Worker(
            base_model=MODEL,
            consumer=CONSUMER,
            engine=self.engine,
            store=self.store,
            objects=self.objects,
            policies=policies,
            background=background,
            limits=LimitsConfig(inline_payload_bytes=inline),
        )
        stop = threading.Event()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                worker.run(stop)
                if ending:
                    worker.hand_back()
                    worker.finish(time.monotonic() + 30)
            except BaseException as error:  # noqa: BLE001  # raised by the test below
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield policies
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()
        assert errors == []

    def outcome(self, request_id: str) -> tuple[FutureRecord, bytes | None]:
        def done() -> bool:
            return self.store.futures.get(request_id)[0].status != "pending"

        wait_until(done, 30, f"outcome of {request_id}")
        return self.store.futures.get(request_id)

    def response(self, request_id: str) -> pb.SampleResponse:
        future, body = self.outcome(request_id)
        assert future.status == "done", future.error
        assert future.content == "proto"
        if future.body_object is not None:
            assert body is None
            body = self.objects.get(future.body_object)
        assert body is not None
        response = pb.SampleResponse()
        response.ParseFromString(body)
        return response

    def error(self, request_id: str) -> str:
        future, _ = self.outcome(request_id)
        assert future.status == "failed"
        assert future.error is not None
        return f"{future.category}: {future.error}"

    def write_policy(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        lora = LoraSpec(rank=4, alpha=32.0, seed=1)
        run = RunRecord(
            run_id="s:train:0",
            tenant="local",
            session_id="s",
            base_model=MODEL,
            lora=lora,
            created_at=0.0,
        )
        manifest = CheckpointManifest(
            run=run,
            kind="sampler_weights",
            name=name,
            step=1,
            has_optimizer=False,
            created_at=0.0,
            files={},
        )
        written = self.checkpoints.write(manifest, files, **options).manifest
        return policy_name(self.checkpoints.prefix_of("s:train:0", written.kind, name), written)


@pytest.fixture
def setting(model: Any, store: Store, objects: ObjectStore) -> Setting:
    return Setting(model, store, objects)


def tokens(response: pb.SampleResponse) -> list[bytes]:
    return [bytes(sequence.tokens) for sequence in response.sequences]


def test_serves_the_base_and_policies(setting: Setting, model: Any) -> None:
    names = {
        seed: setting.write_policy(f"p{seed}", policy_files(model, seed)) for seed in (1, 2, 3)
    }
    ids = [
        setting.accept(ask(PROMPT, seed=9, policy=names.get(seed), num_samples=2))
        for seed in (0, 1, 2, 3, 1)
    ]
    with setting.working():
        replies = [setting.response(each) for each in ids]
    assert all(len(reply.sequences) == 2 for reply in replies)
    assert len({tuple(tokens(reply)) for reply in replies}) == 4
    assert tokens(replies[1]) == tokens(replies[4])


def test_least_recently_used_policy_makes_room(setting: Setting, model: Any) -> None:
    names = [setting.write_policy(f"p{n}", policy_files(model, n + 1)) for n in range(3)]
    with setting.working(limit=2) as policies:
        first = setting.response(setting.accept(ask(PROMPT, seed=1, policy=names[0])))
        for name in (names[1], names[0], names[2]):
            setting.response(setting.accept(ask(PROMPT, seed=1, policy=name)))
        assert list(policies._loaded) == [names[0], names[2]]
        assert set(setting.engine._policies) == {names[0], names[2]}
        again = setting.response(setting.accept(ask(PROMPT, seed=1, policy=names[0])))
        # More policies at a time than places: each gets its turn.
        ids = [setting.accept(ask(PROMPT, policy=name, max_tokens=30)) for name in names * 2]
        for each in ids:
            assert len(setting.response(each).sequences) == 1
    assert tokens(first) == tokens(again)


def test_large_result_goes_to_the_object_store(setting: Setting) -> None:
    request = ask(PROMPT, prompt_logprobs=True, num_samples=4, max_tokens=20)
    with setting.working(inline=100):
        response = setting.response(setting.accept(request))
        small = setting.outcome(setting.accept(ask(PROMPT, max_tokens=1)))
    future, _ = setting.outcome(request.request_id)
    assert future.body_object == f"results/{request.request_id}"
    assert len(response.sequences) == 4
    assert (small[0].body_object, small[1] is not None) == (None, True)


def test_damaged_and_missing_policies_fail_clearly_and_alone(setting: Setting, model: Any) -> None:
    good = setting.write_policy("good", policy_files(model, 1))
    damaged = setting.write_policy("damaged", policy_files(model, 2))
    place = f"{damaged.partition('#')[0]}/adapter_model.safetensors"
    setting.objects.put(place, setting.objects.get(place)[:-1] + b"\x7f")
    strange = setting.write_policy(
        "strange", {**policy_files(model, 2), "adapter_model.safetensors": b"not safetensors"}
    )
    with setting.working():
        ids = [
            setting.accept(ask(PROMPT, policy=policy))
            for policy in (damaged, strange, "runs/s:train:0/sampler_weights/none", good)
        ]
        errors = [setting.error(each) for each in ids[:3]]
        setting.response(ids[3])
        setting.response(setting.accept(ask(PROMPT)))
    assert "user" in errors[0]
    assert "sha256" in errors[0]
    assert "can't be read" in errors[1]
    assert "no checkpoint" in errors[2]


def test_replaced_checkpoint_is_another_policy(setting: Setting, model: Any) -> None:
    """A session of the old one never gets the new weights, loaded or not; nor the reverse."""
    old = setting.write_policy("p", policy_files(model, 1))
    with setting.working(limit=1):
        before = setting.response(setting.accept(ask(PROMPT, seed=1, policy=old)))
        new = setting.write_policy("p", policy_files(model, 2), overwrite=True)
        assert new.partition("#")[0] == old.partition("#")[0]
        after = setting.response(setting.accept(ask(PROMPT, seed=1, policy=new)))
        error = setting.error(setting.accept(ask(PROMPT, seed=1, policy=old)))
    assert tokens(before) != tokens(after)
    assert "was replaced" in error


def test_what_the_engine_refuses_is_a_failed_future(setting: Setting) -> None:
    with setting.working():
        error = setting.error(setting.accept(ask(PROMPT, stop_strings=["x"])))
        setting.response(setting.accept(ask(PROMPT)))
    assert error.startswith("user: ")
    assert "no tokenizer" in error


def test_object_store_away_holds_up_only_who_needs_it(
    s3_server: S3Server, store: Store, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = f"tests/{uuid.uuid4().hex}"
    setting = Setting(model, store, open_object_store(s3_server.config(prefix=prefix)))
    policy = setting.write_policy("p", policy_files(model, 1))
    port = free_port()
    away = open_object_store(s3_server.config(prefix=prefix, endpoint=f"127.0.0.1:{port}"))
    setting.objects, setting.checkpoints = away, Checkpoints(away)
    with setting.working(inline=300):
        needs_policy = setting.accept(ask(PROMPT, policy=policy))
        large = setting.accept(ask(PROMPT, num_samples=8, max_tokens=50))
        small = [setting.accept(ask(PROMPT)) for _ in range(10)]
        for each in small:
            setting.response(each)
        # Beyond the S3 client's own retries, for the policy and for the result.
        wait_until(lambda: caplog.text.count("trying again") >= 4, 30, "retries")
        for each in (needs_policy, large):
            assert store.futures.get(each)[0].status == "pending"
        with forwarding(s3_server.endpoint, port):
            assert len(setting.response(needs_policy).sequences) == 1
            assert len(setting.response(large).sequences) == 8


def test_store_that_goes_away_and_comes_back_gets_the_result(
    model: Any, objects: ObjectStore, tmp_path: Path
) -> None:
    server = EmbeddedStore(PersistenceConfig.from_file_redis(tmp_path / "aof"), tmp_path)
    client = connect(server.start())
    setting = Setting(model, Store(client), objects)
    try:
        with setting.working():
            long = setting.accept(ask(PROMPT, max_tokens=240, num_samples=6))
            # Once a shorter one of the same batch is done, the long one is on its way.
            setting.response(setting.accept(ask(PROMPT, max_tokens=2)))
            assert setting.engine.load > 0
            server.stop()
            wait_until(lambda: setting.engine.load == 0, 60, "the long one sampled")
            server.start()
            assert len(setting.response(long).sequences) == 6
            setting.response(setting.accept(ask(PROMPT)))
    finally:
        client.close()
        server.stop()


def claim_and_die(setting: Setting, times: int) -> None:
    """What a worker does that is killed while it works, as far as the queue sees it."""
    for turn in range(times):
        if turn == 0:
            setting.store.samples.claim(MODEL, CONSUMER, 100, 0)
        else:
            setting.store.samples.reclaim(MODEL, CONSUMER)


def test_unfinished_work_of_a_dead_predecessor_is_served(setting: Setting) -> None:
    ids = [setting.accept(ask(PROMPT)) for _ in range(3)]
    claim_and_die(setting, times=1)
    with setting.working():
        for each in ids:
            setting.response(each)


def test_after_two_deaths_alone_and_after_three_failed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_twice = [setting.accept(ask(PROMPT, max_tokens=20)) for _ in range(2)]
    claim_and_die(setting, times=2)
    fresh = [setting.accept(ask(PROMPT, max_tokens=20)) for _ in range(2)]
    together: dict[str, int] = {}
    step = setting.engine.step

    def watched() -> Any:
        load = setting.engine.load
        finished = step()
        for each in finished:
            together[each.request_id] = load
        return finished

    monkeypatch.setattr(setting.engine, "step", watched)
    with setting.working():
        for each in (*dead_twice, *fresh):
            setting.response(each)
    assert [together[each] for each in dead_twice] == [1, 1]

    killer = setting.accept(ask(PROMPT))
    claim_and_die(setting, times=3)
    with setting.working():
        assert "died three times" in setting.error(killer)
        setting.response(setting.accept(ask(PROMPT)))


def test_what_was_not_begun_at_the_end_is_handed_back(setting: Setting) -> None:
    ids = [setting.accept(ask(PROMPT, max_tokens=200)) for _ in range(2)]
    claim_and_die(setting, times=2)  # from now on each runs alone
    with setting.working(ending=True):
        wait_until(lambda: setting.engine.load == 1, 10, "the first one runs")
    setting.response(ids[0])
    (left,) = setting.store.samples.reclaim(MODEL, "another")
    assert (left.op.request_id, left.deliveries) == (ids[1], 3)


def test_idle_worker_takes_a_request_at_once(setting: Setting) -> None:
    with setting.working():
        setting.response(setting.accept(ask(PROMPT)))
        begun = time.monotonic()
        setting.response(setting.accept(ask(PROMPT, max_tokens=1)))
        assert time.monotonic() - begun < 2


def test_background_raises_what_is_a_bug() -> None:
    background = Background()

    def bug() -> None:
        raise KeyError("bug")

    background.start(bug, lambda _: None, lambda _: None)

    def told() -> bool:
        try:
            background.poll()
        except KeyError:
            return True
        return False

    wait_until(told, 5)
