"""retrieve_future: wake-ups, failures, expiry, owners, and a store that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.api.harness import (
    Api,
    Trainer,
    base_sampler,
    claim_sample,
    config_of,
    is_away,
    ok,
    refused,
    sample_body,
    serving,
)
from tests.waiting import wait_until
from tuft.contracts.operations import FutureRecord
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, Outcome, connect


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as executor:
        yield executor


def held(api: Api) -> int:
    """Polls that wait now."""
    return api.services.waiters.watching


def poll(api: Api, pool: ThreadPoolExecutor, request_id: str) -> Future[httpx.Response]:
    """Begin a poll and return once it is held."""
    before = held(api)
    future = pool.submit(api.retrieve, request_id)
    wait_until(lambda: held(api) > before or future.done(), 5, "the poll is held")
    return future


def test_a_held_poll_is_woken_at_once(api: Api, trainer: Trainer, pool: ThreadPoolExecutor) -> None:
    run_id = api.run()
    waiting = poll(api, pool, f"{run_id}:0")
    assert not waiting.done()
    began = time.monotonic()
    trainer.complete(trainer.pending(run_id)[0], {"model_id": run_id, "type": "create_model"})
    assert ok(waiting.result(5)) == {"model_id": run_id, "type": "create_model"}
    # The next look without an announcement would be five seconds later.
    assert time.monotonic() - began < 2


def test_a_poll_that_does_not_look_first_is_woken_at_once(
    api: Api, trainer: Trainer, pool: ThreadPoolExecutor
) -> None:
    """What this api accepted and nobody announced is pending: the poll need not look."""
    run_id = api.run()
    trainer.complete_all(run_id)
    request_id = ok(api.post("optim_step", {"model_id": run_id, "seq_id": 1, "adam_params": {}}))[
        "request_id"
    ]
    assert api.services.waiters.expects(request_id, "alice")
    refused(api.retrieve(request_id, **api.bob()), 404)
    waiting = poll(api, pool, request_id)
    began = time.monotonic()
    trainer.complete(trainer.pending(run_id)[0], {"type": "optim_step"})
    assert ok(waiting.result(5)) == {"type": "optim_step"}
    assert time.monotonic() - began < 2
    # A repeat is accepted, too, but its result was announced before.
    assert ok(api.post("optim_step", {"model_id": run_id, "seq_id": 1, "adam_params": {}}))
    assert not api.services.waiters.expects(request_id, "alice")


def test_all_polls_of_one_request_are_woken(
    api: Api, trainer: Trainer, pool: ThreadPoolExecutor
) -> None:
    run_id = api.run()
    waiting = [poll(api, pool, f"{run_id}:0") for _ in range(8)]
    trainer.complete(trainer.pending(run_id)[0], {"type": "done"})
    assert [ok(answer.result(5)) for answer in waiting] == [{"type": "done"}] * 8
    assert held(api) == 0


def test_a_result_stays_for_a_second_poll(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    trainer.complete(trainer.pending(run_id)[0], {"type": "done"})
    assert api.retrieve(f"{run_id}:0").json() == api.retrieve(f"{run_id}:0").json()


def test_a_failure_is_a_200_with_error_and_category(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    trainer.complete(trainer.pending(run_id)[0], error="the adapter is bad", category="user")
    assert ok(api.retrieve(f"{run_id}:0")) == {"error": "the adapter is bad", "category": "user"}


def test_a_large_result_comes_from_the_object_store(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    api.services.objects.put("results/large", b"protobuf")
    operation = trainer.pending(run_id)[0]
    trainer.complete(operation, content="proto", body_object="results/large")
    assert api.retrieve(f"{run_id}:0").content == b"protobuf"
    api.services.objects.delete("results/large")
    refused(api.retrieve(f"{run_id}:0"), 410)


@pytest.mark.parametrize("request_id", ["nothing", "a:b:1", "x" * 600])
def test_an_unknown_request(api: Api, request_id: str) -> None:
    refused(api.retrieve(request_id), 404)


def test_a_result_that_expired(api: Api, valkey_expire: Callable[[str], None]) -> None:
    trainer = Trainer(api.store)
    run_id = api.run()
    trainer.complete(trainer.pending(run_id)[0], {})
    valkey_expire(f"{run_id}:0")
    refused(api.retrieve(f"{run_id}:0"), 410)
    refused(api.retrieve(f"{run_id}:0", **api.bob()), 404)


@pytest.fixture
def valkey_expire(module_store: str) -> Callable[[str], None]:
    def expire(request_id: str) -> None:
        assert connect(module_store).expire(f"tuft:future:{request_id}", 0)

    return expire


def test_another_tenants_request_does_not_exist(api: Api, trainer: Trainer) -> None:
    run_id = api.run()
    refused(api.retrieve(f"{run_id}:0", **api.bob()), 404)
    trainer.complete(trainer.pending(run_id)[0], {})
    refused(api.retrieve(f"{run_id}:0", **api.bob()), 404)


def test_a_sample_wakes_its_poll(api: Api, pool: ThreadPoolExecutor) -> None:
    stub = ok(api.post("asample", sample_body(base_sampler(api))))
    waiting = poll(api, pool, stub["request_id"])
    claimed = claim_sample(api.store, stub["request_id"])
    done = FutureRecord(
        request_id=stub["request_id"],
        tenant="alice",
        result_type="Sample",
        status="done",
        content="proto",
    )
    api.store.samples.complete(claimed, Outcome(done, b"bytes"), result_ttl_s=60)
    assert waiting.result(5).content == b"bytes"


def test_a_store_that_dies_and_comes_back(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Polls are held over it, submissions get a 503, and then all goes on."""
    persistence = PersistenceConfig.from_file_redis(tmp_path / "data")
    server = EmbeddedStore(persistence, tmp_path)
    with serving(config_of(tmp_path), server.start()) as api:
        run_id = api.run()
        waiting = poll(api, pool, f"{run_id}:0")
        server.stop()
        wait_until(lambda: is_away(api.store), 5)
        gone = api.post("optim_step", {"model_id": run_id, "seq_id": 1})
        assert gone.headers["retry-after"] == "1"
        refused(gone, 503)
        refused(api.http.get("/healthz"), 503)
        assert not waiting.done()
        server.start()
        trainer = Trainer(api.store)
        trainer.complete(trainer.pending(run_id)[0], {"type": "done"})
        assert ok(waiting.result(10)) == {"type": "done"}
    server.stop()


def test_a_poll_while_the_store_is_away_ends_in_408(tmp_path: Path) -> None:
    server = EmbeddedStore(PersistenceConfig.disabled(), tmp_path)
    with serving(config_of(tmp_path, long_poll_s=0.5), server.start()) as api:
        request_id = f"{api.run()}:0"
        server.stop()
        assert api.retrieve(request_id).status_code == 408


def test_polls_are_answered_when_the_api_stops(valkey_url: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, long_poll_s=40)
    answers: list[httpx.Response] = []
    with serving(config, valkey_url) as api:
        request_id = f"{api.run()}:0"
        with httpx.Client(base_url=api.url, headers=dict(api.http.headers), timeout=50) as http:
            body = {"request_id": request_id}
            thread = threading.Thread(
                target=lambda: answers.append(http.post("/api/v1/retrieve_future", json=body))
            )
            thread.start()
            wait_until(lambda: held(api) == 1, 5)
            api.stop()
            thread.join(10)
    assert [answer.status_code for answer in answers] == [408]
