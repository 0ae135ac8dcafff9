"""The service itself: health, capabilities, the key; and its process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.service.api.harness import (
    ALICE,
    CONTEXT,
    INFO,
    MODEL,
    Api,
    config_of,
    create_model_body,
    ok,
    refused,
    serving,
)
from tests.waiting import wait_until
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, Store, connect


def test_healthy_only_when_all_workers_are_ready(fresh_api: Api) -> None:
    workers = fresh_api.store.workers
    for url in ("/healthz", "/api/v1/healthz"):
        answer = fresh_api.http.get(url)
        assert answer.status_code == 503
        assert answer.json()["waiting"] == [f"trainer of {MODEL}", f"sampler of {MODEL}"]
    workers.report("t", "trainer", MODEL, "ready")
    workers.report("s", "sampler", MODEL, "loading")
    assert fresh_api.http.get("/healthz").json()["waiting"] == [f"sampler of {MODEL}"]
    workers.report("s/2", "sampler", MODEL, "standby")
    assert fresh_api.http.get("/healthz").status_code == 503
    workers.report("s", "sampler", MODEL, "ready")
    answer = fresh_api.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_alive_without_store_workers_or_key(tmp_path: Path) -> None:
    """What restarts a pod must not restart it because others are away."""
    server = EmbeddedStore(PersistenceConfig.disabled(), tmp_path)
    with serving(config_of(tmp_path), server.start()) as api:
        server.stop()
        for url in ("/livez", "/api/v1/livez"):
            assert ok(api.http.get(url, headers={"X-API-Key": ""})) == {"status": "ok"}


def test_requests_are_taken_while_no_worker_is_there(valkey_url: str, tmp_path: Path) -> None:
    """Clients wait for this, and not for workers, which their requests bring back."""
    with serving(config_of(tmp_path), valkey_url, loaded=False) as api:
        anybody = {"X-API-Key": ""}
        answer = api.http.get("/api/v1/readyz", headers=anybody)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert MODEL in answer.json()["detail"]
        api.store.workers.set_model_info(INFO)
        assert ok(api.http.get("/api/v1/readyz", headers=anybody)) == {"status": "ok"}
        assert api.http.get("/healthz").status_code == 503
        run_id = api.run()
        assert api.store.runs.status(run_id).next_seq_id == 1


def test_capabilities(api: Api) -> None:
    assert ok(api.get("get_server_capabilities")) == {
        "supported_models": [
            {
                "model_name": MODEL,
                "max_context_length": CONTEXT,
                "trainable": True,
                "sampleable": True,
            }
        ]
    }


def test_nothing_is_made_of_a_model_that_is_still_loading(valkey_url: str, tmp_path: Path) -> None:
    with serving(config_of(tmp_path), valkey_url, loaded=False) as api:
        session_id = api.session()
        answer = api.post("create_model", create_model_body(session_id))
        assert answer.headers["retry-after"] == "1"
        refused(answer, 503)
        body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": MODEL}
        refused(api.post("create_sampling_session", body), 503)
        ok(api.get("get_server_capabilities"))
        api.store.workers.set_model_info(INFO)
        ok(api.post("create_model", create_model_body(session_id)))


def test_whose_key_it_is(api: Api) -> None:
    assert ok(api.get("auth/apikey/me"))["name"] == "alice"


def test_many_polls_at_once(fresh_api: Api) -> None:
    """Each is a connection of its own; other requests are served beside them."""
    request_id = f"{fresh_api.run()}:0"
    body = f'{{"request_id": "{request_id}"}}'.encode()
    head = (
        f"POST /api/v1/retrieve_future HTTP/1.1\r\nHost: x\r\nX-API-Key: {ALICE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    address = ("127.0.0.1", int(fresh_api.url.rpartition(":")[2]))
    polls = [socket.create_connection(address, 10) for _ in range(400)]
    try:
        for poll in polls:
            poll.sendall(head + body)
        wait_until(lambda: fresh_api.services.waiters.watching == 400, 20)
        began = time.monotonic()
        ok(fresh_api.get("get_server_capabilities"))
        assert time.monotonic() - began < 2
    finally:
        fresh_api.stop()
        answers = [poll.recv(100) for poll in polls]
        for poll in polls:
            poll.close()
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)


class TestProcess:
    """`python -m tuft.api` as the supervisor starts it."""

    @pytest.fixture
    def environment(self, valkey_url: str, tmp_path: Path) -> dict[str, str]:
        config_file = tmp_path / "config.json"
        config_file.write_text(config_of(tmp_path, long_poll_s=40).model_dump_json())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return {
            **os.environ,
            "TUFT_CONFIG": str(config_file),
            "TUFT_STORE_URL": valkey_url,
            "TUFT_HOST": "127.0.0.1",
            "TUFT_PORT": str(port),
        }

    def test_it_serves_and_ends_promptly_with_a_poll_open(
        self, environment: dict[str, str], valkey_url: str
    ) -> None:
        Store(connect(valkey_url)).workers.set_model_info(INFO)
        process = subprocess.Popen(
            [sys.executable, "-m", "tuft.api"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        answers: list[int] = []
        url = f"http://127.0.0.1:{environment['TUFT_PORT']}"
        try:
            with httpx.Client(base_url=url, headers={"X-API-Key": ALICE}, timeout=60) as http:
                wait_until(lambda: _answers(http, process), 30, "the process listens")
                session_id = http.post("/api/v1/create_session", json={}).json()["session_id"]
                stub = http.post("/api/v1/create_model", json=create_model_body(session_id)).json()
                body = {"request_id": stub["request_id"]}

                def poll() -> None:
                    answers.append(http.post("/api/v1/retrieve_future", json=body).status_code)

                thread = threading.Thread(target=poll)
                thread.start()
                # A second poll that is answered shows that the first was read before.
                http.post("/api/v1/retrieve_future", json={"request_id": "none"})
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                output, _ = process.communicate(timeout=15)
                thread.join(5)
            assert time.monotonic() - began < 5
            assert answers == [408]
            assert process.returncode in (0, -signal.SIGTERM)
            assert "Traceback" not in output
            assert "retrieve_future" not in output
        finally:
            process.kill()
            process.wait()

    def test_what_is_missing_is_named(self, environment: dict[str, str]) -> None:
        del environment["TUFT_STORE_URL"]
        ended = subprocess.run(
            [sys.executable, "-m", "tuft.api"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode != 0
        assert "TUFT_STORE_URL" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_torch_is_never_imported(self) -> None:
        code = "import sys, tuft.api.__main__; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def _answers(http: httpx.Client, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None
    try:
        http.get("/healthz")
    except httpx.TransportError:
        return False
    return True
