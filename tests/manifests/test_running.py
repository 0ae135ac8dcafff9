"""The base's own commands, environment and configuration, as processes of this machine.

Adapted are hosts, ports and paths. Valkey, object store and workers are real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
import tinker
from tinker import types

from tests.e2e.test_sdk import ADAM, ROW, TIMEOUT
from tests.helpers.s3_server import S3Server
from tests.manifests.kustomize import models_yaml, of_kind, workload
from tests.waiting import wait_until
from tuft.config import load_config
from tuft.store import Store, connect
from tuft.store.embedded import find_server
from tuft.supervisor.tree import free_port

KEY = "tml-a-key-of-the-test"
# A password that a URL can't hold as it is.
PASSWORD = "p@ss/w:rd#1"
MODEL = "Qwen/Qwen3-4B"
# What KEDA's scaler asks for (kedacore/keda, pkg/scalers/redis_scaler.go, v2.17).
LENGTH = """
local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(cmd[redis.call('type', KEYS[1]).ok], KEYS[1])
"""


@dataclass
class Pods:
    """Processes with the commands of the manifests; each name is a workload's."""

    folder: Path
    model: Path
    s3: S3Server
    store_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("run", "state", "home", "data"):
            (self.folder / name).mkdir()
        (self.folder / "api_keys.yaml").write_text(json.dumps([{"key": KEY, "tenant": "research"}]))
        self._write("models.yaml", models_yaml("base"))
        [conf] = [
            m["data"] for m in of_kind("base", "ConfigMap").values() if "valkey.conf" in m["data"]
        ]
        self._write("valkey.conf", conf["valkey.conf"])

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self.here(text))

    def here(self, text: str) -> str:
        """The text with this machine's places for those of the cluster."""
        for there, place in {
            "/etc/valkey/valkey.conf": str(self.folder / "valkey.conf"),
            "dir /data": f"dir {self.folder / 'data'}",
            "port 6379": f"port {self.store_port}",
            "tuft-valkey:6379": f"127.0.0.1:{self.store_port}",
            "tuft-minio:9000": self.s3.endpoint,
            "/models/Qwen3-4B": str(self.model),
            "/etc/tuft-keys": str(self.folder),
            "/var/lib/tuft": str(self.folder / "state"),
            "/var/cache/tuft": str(self.folder / "home"),
            '"127.0.0.1", 8080': f'"127.0.0.1", {self.api_port}',
        }.items():
            text = text.replace(there, place)
        return text

    def command(self, words: list[str]) -> list[str]:
        return [sys.executable if word == "python" else self.here(word) for word in words]

    def environment(self, name: str) -> dict[str, str]:
        secrets = {
            "password": PASSWORD,
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
        }
        env = {
            "PATH": f"{Path(find_server()).parent}:{os.environ['PATH']}",
            "TUFT_MODELS_FILE": str(self.folder / "models.yaml"),
            "TUFT_RUN_FOLDER": str(self.folder / "run" / name),
        }
        Path(env["TUFT_RUN_FOLDER"]).mkdir(exist_ok=True)
        for key, entry in workload("base", name).env().items():
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                env[key] = secrets[source["secretKeyRef"]["key"]]
            else:
                env[key] = "1" if "resourceFieldRef" in source else self.here(entry["value"])
        if name == "tuft-api":
            env |= {"TUFT_PORT": str(self.api_port), "TUFT_HOST": "127.0.0.1"}
        return env

    def start(self, name: str) -> None:
        [container] = workload("base", name).containers
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(container["command"]),
                env=self.environment(name),
                stdout=log,
                stderr=log,
            )

    def probe(self, name: str, kind: str) -> bool:
        """Whether the pod's probe of that kind succeeds, or an exec of it does within its time."""
        [container] = workload("base", name).containers
        action = container[kind]
        if "tcpSocket" in action:
            with socket.socket() as attempt:
                return attempt.connect_ex(("127.0.0.1", self.api_port)) == 0
        done = subprocess.run(
            self.command(action["exec"]["command"]),
            env=self.environment(name),
            capture_output=True,
            timeout=6 * action["timeoutSeconds"],  # kubelet has machines that do nothing else
        )
        return done.returncode == 0

    def wait(self, name: str, kind: str) -> None:
        def good() -> bool:
            if self.running[name].poll() is not None:
                raise RuntimeError(f"{name} ended:\n{self.log(name)}")
            return self.probe(name, kind)

        wait_until(good, TIMEOUT, what=f"{kind} of {name}")

    def stop(self, name: str) -> int:
        """As Kubernetes stops a pod; the exit status."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(workload("base", name).pod["terminationGracePeriodSeconds"])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def store_url(self) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{self.store_port}/0"


@contextmanager
def pods(folder: Path, model: Path, s3: S3Server) -> Iterator[Pods]:
    made = Pods(folder, model, s3)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def long_model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model, which says that it takes as long prompts as the base's model."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40960}))
    return folder


def answers(pods: Pods) -> bool:
    try:
        return bool(redis.Redis.from_url(pods.store_url()).ping())
    except redis.exceptions.AuthenticationError:
        raise
    except redis.exceptions.ConnectionError:
        if pods.running["tuft-valkey"].poll() is not None:
            raise RuntimeError(pods.log("tuft-valkey")) from None
        return False


def lengths(pods: Pods) -> dict[str, list[int]]:
    """What KEDA would see, by ScaledObject."""
    client = redis.Redis.from_url(pods.store_url())
    found: dict[str, list[int]] = {}
    for name, scaled in of_kind("components/keda", "ScaledObject").items():
        found[name] = []
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "redis":
                said: Any = client.eval(LENGTH, 1, trigger["metadata"]["listName"])
            else:
                said = client.xlen(trigger["metadata"]["stream"])
            found[name].append(int(said))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_base_serves_goes_to_zero_and_comes_back(
    tmp_path: Path, long_model: Path, s3_server: S3Server
) -> None:
    (tmp_path / "pods").mkdir()
    with pods(tmp_path / "pods", long_model, s3_server) as cluster:
        assert load_config(cluster.folder / "models.yaml").model(MODEL).max_model_len == 8192
        cluster.start("tuft-valkey")
        store = Store(connect(cluster.store_url()))
        wait_until(lambda: answers(cluster), TIMEOUT, what="Valkey")
        assert store.check_server() == [], "the store's settings weaken what is promised"
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=cluster.store_port).get("x")

        cluster.start("tuft-api")
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            cluster.wait("tuft-api", kind)
        url = f"http://127.0.0.1:{cluster.api_port}"
        assert httpx.get(f"{url}/healthz").status_code == 503, "no worker is there"
        workers = ("tuft-trainer", "tuft-sampler")
        for name in workers:
            cluster.start(name)
            assert not cluster.probe(name, "readinessProbe")
        for name in workers:
            cluster.wait(name, "readinessProbe")
        assert httpx.get(f"{url}/healthz").status_code == 200

        client = tinker.ServiceClient(base_url=url, api_key=KEY)
        training = client.create_lora_training_client(base_model=MODEL, rank=4).result(TIMEOUT)
        training.forward_backward([ROW], "cross_entropy").result(timeout=TIMEOUT)
        training.optim_step(ADAM).result(timeout=TIMEOUT)
        sampler = training.save_weights_and_get_sampling_client().result(TIMEOUT)

        wait_until(lambda: lengths(cluster) == {"tuft-trainer": [0], "tuft-sampler": [0, 0]}, 30)
        assert [cluster.stop(name) for name in workers] == [0, 0]

        # Asked while nobody is there: it waits, and KEDA sees it.
        pending = training.forward_backward([ROW], "cross_entropy")
        prompt = types.ModelInput.from_ints([5, 6, 7])
        sampling = types.SamplingParams(max_tokens=4, temperature=0.0)
        sample = sampler.sample(prompt, 1, sampling)
        wait_until(lambda: lengths(cluster) == {"tuft-trainer": [1], "tuft-sampler": [1, 0]}, 30)
        assert cluster.probe("tuft-api", "readinessProbe")
        assert cluster.probe("tuft-api", "livenessProbe")

        for name in workers:
            cluster.start(name)
        assert pending.result(timeout=TIMEOUT).metrics["loss:sum"] > 0
        assert len(sample.result(timeout=TIMEOUT).sequences[0].tokens) == 4
        wait_until(lambda: lengths(cluster) == {"tuft-trainer": [0], "tuft-sampler": [0, 0]}, 30)
        assert [cluster.stop(name) for name in (*workers, "tuft-valkey")] == [0, 0, 0]
        # uvicorn ends by the signal that it was sent; process 1 of a container with status 0.
        assert cluster.stop("tuft-api") in (0, -signal.SIGTERM)
