"""/metrics: what is counted, what is said of stores that are away, and what is in no label."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.service.api.harness import (
    MODEL,
    Api,
    Trainer,
    base_sampler,
    claim_sample,
    config_of,
    create_model_body,
    is_away,
    ok,
    refused,
    sample_body,
    serving,
)
from tests.waiting import wait_until
from tuft.contracts.operations import FutureRecord
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, Outcome

pytest.importorskip("prometheus_client", reason="prometheus_client is missing: make install")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(http: httpx.Client) -> Samples:
    """As Prometheus reads it."""
    from prometheus_client.parser import text_string_to_metric_families

    answer = http.get("/metrics", headers={"X-API-Key": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"tuft_{name}", frozenset(labels.items())))


def test_operations_are_counted_by_kind_and_outcome(fresh_api: Api) -> None:
    session_id = fresh_api.session()
    run_id = fresh_api.run(session_id)
    trainer = Trainer(fresh_api.store)
    ok(fresh_api.post("create_model", create_model_body(session_id)))  # a repeat
    before = scrape(fresh_api.http)
    assert value(before, "operations_accepted_total", kind="create_model") == 1
    assert value(before, "runs_pending", model=MODEL) == 1
    trainer.complete_all(run_id)
    ok(fresh_api.post("optim_step", {"model_id": run_id, "seq_id": 1, "adam_params": {}}))
    trainer.complete(trainer.pending(run_id)[0], error="no", category="user")
    after = scrape(fresh_api.http)
    assert value(after, "runs_pending", model=MODEL) == 0
    finished = "operations_finished_total"
    assert value(after, finished, kind="create_model", outcome="done") == 1
    assert value(after, finished, kind="optim_step", outcome="user_error") == 1
    assert value(after, "operations_accepted_total", kind="optim_step") == 1


def test_samples_wait_and_run_and_end(fresh_api: Api) -> None:
    sampler_id = base_sampler(fresh_api)
    first = ok(fresh_api.post("asample", sample_body(sampler_id)))["request_id"]
    ok(fresh_api.post("asample", sample_body(sampler_id, 1)))
    claimed = claim_sample(fresh_api.store, first)
    between = scrape(fresh_api.http)
    assert value(between, "samples_waiting", model=MODEL) == 1
    assert value(between, "samples_running", model=MODEL) == 1
    done = FutureRecord(request_id=first, tenant="alice", result_type="Sample", status="done")
    fresh_api.store.samples.complete(claimed, Outcome(done, b""), result_ttl_s=60)
    fresh_api.store.samples.complete(claimed, Outcome(done, b""), result_ttl_s=60)  # a repeat
    after = scrape(fresh_api.http)
    assert value(after, "samples_running", model=MODEL) == 0
    assert value(after, "operations_finished_total", kind="sample", outcome="done") == 1
    assert value(after, "operations_accepted_total", kind="sample") == 2


def test_requests_by_route_and_nothing_that_a_client_chose(fresh_api: Api) -> None:
    run_id = fresh_api.run()
    assert fresh_api.retrieve("nothing:1").status_code == 404
    assert fresh_api.get(f"training_runs/{run_id}").status_code == 200
    assert fresh_api.http.get("/a/path/of/mine").status_code == 404
    assert fresh_api.http.request("PURGE", "/healthz").status_code == 405
    samples = scrape(fresh_api.http)
    count = "http_request_seconds_count"
    path = "/api/v1/retrieve_future"
    assert value(samples, count, method="POST", path=path, code="404") == 1
    path = "/api/v1/training_runs/{run_id}"
    assert value(samples, count, method="GET", path=path, code="200") == 1
    assert value(samples, count, method="GET", path="other", code="404") == 1
    labels = {text for _, pairs in samples for pair in pairs for text in pair}
    assert not [text for text in labels if "alice" in text or run_id in text or "mine" in text]
    assert "PURGE" not in labels


def test_workers_that_are_there(fresh_api: Api) -> None:
    fresh_api.store.workers.report("t/1", "trainer", MODEL, "ready")
    fresh_api.store.workers.report("t/2", "trainer", MODEL, "standby")
    samples = scrape(fresh_api.http)
    workers = {
        (role, state): value(samples, "workers", model=MODEL, role=role, state=state)
        for role in ("trainer", "sampler")
        for state in ("ready", "standby")
    }
    assert workers == {
        ("trainer", "ready"): 1,
        ("trainer", "standby"): 1,
        ("sampler", "ready"): 0,
        ("sampler", "standby"): 0,
    }
    assert value(samples, "store_up") == value(samples, "object_store_up") == 1


def test_a_store_that_is_away(tmp_path: Path) -> None:
    """It is said, and what is not known is not there; the process itself is alive."""
    server = EmbeddedStore(PersistenceConfig.disabled(), tmp_path)
    with serving(config_of(tmp_path), server.start()) as api:
        server.stop()
        wait_until(lambda: is_away(api.store), 5)
        samples = scrape(api.http)
        assert value(samples, "store_up") == 0
        assert value(samples, "object_store_up") == 1
        assert value(samples, "runs_pending", model=MODEL) is None
        assert ok(api.http.get("/livez", headers={"X-API-Key": ""})) == {"status": "ok"}
        refused(api.http.get("/healthz"), 503)


@pytest.mark.slow
def test_processes_of_one_port_add_up(valkey_url: str, tmp_path: Path) -> None:
    config_file = tmp_path / "config.json"
    config_file.write_text(config_of(tmp_path).model_dump_json())
    (tmp_path / "metrics").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        env = {
            **os.environ,
            "TUFT_CONFIG": str(config_file),
            "TUFT_STORE_URL": valkey_url,
            "TUFT_SOCKET": str(listener.fileno()),
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        }
        command = [sys.executable, "-m", "tuft.api"]
        children = [
            subprocess.Popen(command, env=env, pass_fds=[listener.fileno()]) for _ in range(2)
        ]
        try:
            url = f"http://127.0.0.1:{port}"
            asked = 0
            # Another connection each, which whichever process takes, until both have.
            while len(list((tmp_path / "metrics").glob("histogram_*.db"))) < 2:
                ok(httpx.get(f"{url}/livez", timeout=30))
                asked += 1
                assert asked < 500
            with httpx.Client(base_url=url) as http:
                samples = scrape(http)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(15)
    count = "http_request_seconds_count"
    assert value(samples, count, method="GET", path="/livez", code="200") == asked
