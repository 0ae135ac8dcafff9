"""The sandbox runner, as a process of its own, and the client that steps use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.components.samples import transition
from tests.sandbox.needs import local_sandbox
from tests.waiting import wait_until
from tuft.supervisor.tree import free_port
from tuft_components.errors import BadConfiguration, BadData, TransientFailure
from tuft_components.rewards import reward_function, rewards_of
from tuft_components.sandbox import Job, Limits, sandbox
from tuft_components.sandbox.remote import RemoteSandbox
from tuft_components.trajectories import Trajectory

TOKEN = "a-token-of-the-test"
SERVER = (sys.executable, "-m", "tuft_components.sandbox.server")


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    local_sandbox()
    url, log = f"http://127.0.0.1:{free_port()}", tmp_path_factory.mktemp("server") / "log"
    arguments = ["--port", url.rpartition(":")[2], "--at-once", "1", "--waiting", "1"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*SERVER, *arguments], env={**os.environ, "TUFT_SANDBOX_TOKEN": TOKEN}, stderr=file
        )
    try:
        wait_until(lambda: answers(url) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield Server(url, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    finally:
        process.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").text == "ok"
    except httpx.HTTPError:
        return False


def test_a_job_runs_there(server: Server) -> None:
    place = RemoteSandbox(server.url + "/", TOKEN)
    assert "bubblewrap on this machine, 1 at a time" in place.check()
    result = place.run(Job(code="print(input())\nraise SystemExit(3)", stdin="é\ud800"))
    assert (result.status, result.stdout, result.limit) == (3, "é?\n", "")
    ended = place.run(Job(code="import time\ntime.sleep(9)", limits=Limits(wall_s=0.3)))
    assert ended.limit == "wall"


def test_its_environment_holds_no_token(server: Server) -> None:
    environment = Path(f"/proc/{server.process.pid}/environ").read_bytes()
    assert TOKEN.encode() in environment  # of its start; what runs below it has none
    result = RemoteSandbox(server.url, TOKEN).run(Job(code="import os\nprint(dict(os.environ))"))
    assert TOKEN not in result.stdout


def test_steps_use_it_by_a_variable(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUFT_SANDBOX_URL", server.url)
    monkeypatch.setenv("TUFT_SANDBOX_TOKEN", TOKEN)
    monkeypatch.setenv("PATH", str(tmp_path))  # no bubblewrap in a step's pod
    assert isinstance(sandbox(), RemoteSandbox)
    info = {"tests": ["assert one() == 1", "assert one() == 2"]}
    episode = Trajectory([transition(completion_text="def one(): return 1", info=info)])
    assert rewards_of("unit_tests", [episode]).tolist() == [0.5]
    reward = reward_function("unit_tests", {})
    assert server.url in reward.check()  # type: ignore[attr-defined]  # as preflight does


def test_more_jobs_than_there_is_room_for_come_later(server: Server) -> None:
    place = RemoteSandbox(server.url, TOKEN)
    job = Job(code="import time\ntime.sleep(0.05)\nprint(1)")
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(place.run, [job] * 6))
    assert [result.stdout for result in results] == ["1\n"] * 6
    impatient = RemoteSandbox(server.url, TOKEN, patience_s=0)
    with ThreadPoolExecutor(6) as threads:
        tried = [threads.submit(impatient.run, job) for _ in range(6)]
        errors = [error for each in tried if (error := each.exception()) is not None]
    assert errors
    assert all(isinstance(error, TransientFailure) for error in errors)
    assert "503" in str(errors[0])


def test_nobody_without_the_token(server: Server) -> None:
    with pytest.raises(BadConfiguration, match="TUFT_SANDBOX_TOKEN"):
        RemoteSandbox(server.url, "another").run(Job(code="print(1)"))
    for given in ({}, {"Authorization": TOKEN}, {"Authorization": "Bearer x"}):
        assert httpx.post(f"{server.url}/run", headers=given, content=b"{}").status_code == 401
        assert httpx.get(f"{server.url}/check", headers=given).status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{}", 422, "code: Field required"),
        (b"no JSON", 422, "Invalid JSON"),
        (b'{"code": "", "env": {"A": "b"}}', 422, "env: Extra inputs"),
        (b'{"code": "", "files": {"../x": ""}}', 422, "files"),
        (b'{"code": "", "limits": {"memory_mb": 4096}}', 422, "at most memory_mb 1024"),
        (b'{"code": "", "limits": {"wall_s": NaN}}', 422, "wall_s"),
        (b"x" * 9_000_000, 413, "more than 8388608 bytes"),
    ],
)  # fmt: skip
def test_what_it_does_not_take(server: Server, body: bytes, status: int, says: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx.post(f"{server.url}/run", headers=headers, content=body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


def test_a_job_that_it_does_not_take_is_bad_data(server: Server) -> None:
    with pytest.raises(BadData, match="at most memory_mb 1024"):
        RemoteSandbox(server.url, TOKEN).run(Job(code="", limits=Limits(memory_mb=2048)))


def test_a_runner_that_is_away_is_transient() -> None:
    place = RemoteSandbox(f"http://127.0.0.1:{free_port()}", TOKEN, patience_s=0.2)
    with pytest.raises(TransientFailure, match="does not answer: ConnectError"):
        place.run(Job(code="print(1)"))


@pytest.mark.parametrize("url", ["sandbox:8090", "ftp://x"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BadConfiguration, match="TUFT_SANDBOX_URL"):
        RemoteSandbox(url, TOKEN).check()


def test_a_client_needs_a_token() -> None:
    with pytest.raises(BadConfiguration, match="TUFT_SANDBOX_TOKEN"):
        RemoteSandbox("http://sandbox", "")


def test_it_does_not_start_without_a_token() -> None:
    env = {name: value for name, value in os.environ.items() if name != "TUFT_SANDBOX_TOKEN"}
    done = subprocess.run(SERVER, env=env, capture_output=True, text=True)
    assert done.returncode == 78
    assert "set TUFT_SANDBOX_TOKEN" in done.stderr
