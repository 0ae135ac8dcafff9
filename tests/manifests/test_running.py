"""The base's pods as processes of this machine, with a pod's rights: all but the cluster is real.

Adapted are addresses only: hosts and ports.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
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
from tests.manifests.kustomize import of_kind, workload
from tests.manifests.pod import Pod, skip_where_impossible
from tests.waiting import wait_until
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
class Cluster:
    """Pods of the base with what they share; each name is a workload's."""

    folder: Path
    s3: S3Server
    store_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    pods: dict[str, Pod] = field(default_factory=dict)
    started: int = 0

    def here(self, text: str) -> str:
        """The text with this machine's addresses for those of the cluster."""
        for there, place in {
            "tuft-valkey:6379": f"127.0.0.1:{self.store_port}",
            "port 6379": f"port {self.store_port}",
            "tuft-minio:9000": self.s3.endpoint,
        }.items():
            text = text.replace(there, place)
        return text

    def start(self, name: str, variant: str = "base") -> None:
        self.started += 1
        self.pods[name] = Pod(
            variant=variant,
            workload=workload(variant, name),
            folder=self.folder / f"{name}-{self.started}",
            claims={"tuft-models": self.folder / "models", "data": self.folder / "data"},
            secrets={
                "tuft-valkey": {"password": PASSWORD},
                "tuft-api-keys": {"api_keys.yaml": f"[{{key: {KEY}, tenant: research}}]"},
                "tuft-hugging-face": {"token": "hf_none"},
                "tuft-object-store": {
                    "AWS_ACCESS_KEY_ID": self.s3.access_key,
                    "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
                },
            },
            here=self.here,
            env={
                "PATH": f"{Path(sys.executable).parent}:{Path(find_server()).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
                **({"TUFT_PORT": str(self.api_port)} if name == "tuft-api" else {}),
            },
        )

    def probe(self, name: str, kind: str) -> bool:
        """Whether that probe of the pod succeeds."""
        pod = self.pods[name]
        action = pod.container[kind]
        if "httpGet" in action:
            try:
                url = f"http://127.0.0.1:{self.api_port}{action['httpGet']['path']}"
                return httpx.get(url, timeout=6 * action.get("timeoutSeconds", 1)).is_success
            except httpx.TransportError:
                return False
        # This machine has more to do than a node that is not overloaded.
        return pod.run(action["exec"]["command"], 6 * action["timeoutSeconds"]) == 0

    def wait(self, name: str, kind: str) -> None:
        def good() -> bool:
            if self.pods[name].process.poll() is not None:
                raise RuntimeError(f"{name} ended:\n{self.pods[name].said()}")
            return self.probe(name, kind)

        wait_until(good, 2 * TIMEOUT, what=f"{kind} of {name}")

    def stop(self, name: str) -> int:
        return self.pods.pop(name).stop()

    def store_url(self) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{self.store_port}/0"

    def store_answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.store_url()).ping())
        except redis.exceptions.AuthenticationError:
            raise
        except redis.exceptions.ConnectionError:
            pod = self.pods["tuft-valkey"]
            if pod.process.poll() is not None:
                raise RuntimeError(pod.said()) from None
            return False

    def lengths(self) -> dict[str, list[int]]:
        """What KEDA would see, by ScaledObject."""
        client = redis.Redis.from_url(self.store_url())
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


@pytest.fixture
def cluster(tiny_model_folder: Path, tmp_path: Path, s3_server: S3Server) -> Iterator[Cluster]:
    """With the tiny model on its volume, which says that it takes as long prompts as the base's."""
    (tmp_path / "root").mkdir()
    skip_where_impossible(tmp_path / "root")
    folder = tmp_path / "pods"
    model = folder / "models" / "Qwen3-4B"
    shutil.copytree(tiny_model_folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40960}))
    for entry in (folder / "models").rglob("*"):
        entry.chmod(0o755 if entry.is_dir() else 0o644)
    (folder / "models").chmod(0o755)
    (folder / "data").mkdir()
    os.chown(folder / "data", 0, 10001)
    (folder / "data").chmod(0o2770)
    made = Cluster(folder, s3_server)
    try:
        yield made
    finally:
        for pod in made.pods.values():
            pod.process.kill()
            pod.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_base_serves_goes_to_zero_and_comes_back(cluster: Cluster) -> None:
    cluster.start("tuft-valkey")
    store = Store(connect(cluster.store_url()))
    wait_until(cluster.store_answers, TIMEOUT, what="Valkey")
    assert store.check_server() == [], "the store's settings weaken what is promised"
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=cluster.store_port).get("x")

    cluster.start("tuft-api")
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        cluster.wait("tuft-api", kind)
    api = cluster.pods["tuft-api"]
    for place in ("/etc/tuft/x", "/etc/tuft-keys/x", "/models/x", "/opt/x"):
        assert api.run(["touch", place], TIMEOUT) != 0, "it can't change what it is made of"
    assert api.run(["sh", "-c", 'test "$(id -u)" = 10001 && touch /tmp/x'], TIMEOUT) == 0
    url = f"http://127.0.0.1:{cluster.api_port}"
    assert httpx.get(f"{url}/healthz").status_code == 503, "no worker is there"
    workers = ("tuft-trainer", "tuft-sampler")
    cluster.start("tuft-model-download", "components/model-download")
    for name in workers:
        cluster.start(name)
        assert not cluster.probe(name, "readinessProbe")
    for name in workers:
        cluster.wait(name, "readinessProbe")
    assert httpx.get(f"{url}/healthz").status_code == 200
    # Applied again, the Job finds the model.
    assert cluster.pods["tuft-model-download"].process.wait(TIMEOUT) == 0
    assert "/models/Qwen3-4B is there" in cluster.pods["tuft-model-download"].said()

    client = tinker.ServiceClient(base_url=url, api_key=KEY)
    training = client.create_lora_training_client(base_model=MODEL, rank=4).result(TIMEOUT)
    training.forward_backward([ROW], "cross_entropy").result(timeout=TIMEOUT)
    training.optim_step(ADAM).result(timeout=TIMEOUT)
    sampler = training.save_weights_and_get_sampling_client().result(TIMEOUT)

    wait_until(lambda: cluster.lengths() == {"tuft-trainer": [0], "tuft-sampler": [0, 0]}, 30)
    assert [cluster.stop(name) for name in workers] == [0, 0]

    # Asked while nobody is there: it waits, and KEDA sees it.
    pending = training.forward_backward([ROW], "cross_entropy")
    prompt = types.ModelInput.from_ints([5, 6, 7])
    sampling = types.SamplingParams(max_tokens=4, temperature=0.0)
    sample = sampler.sample(prompt, 1, sampling)
    wait_until(lambda: cluster.lengths() == {"tuft-trainer": [1], "tuft-sampler": [1, 0]}, 30)
    assert cluster.probe("tuft-api", "readinessProbe")
    assert cluster.probe("tuft-api", "livenessProbe")

    for name in workers:
        cluster.start(name)
    assert pending.result(timeout=TIMEOUT).metrics["loss:sum"] > 0
    assert len(sample.result(timeout=TIMEOUT).sequences[0].tokens) == 4
    wait_until(lambda: cluster.lengths() == {"tuft-trainer": [0], "tuft-sampler": [0, 0]}, 30)
    assert [cluster.stop(name) for name in (*workers, "tuft-valkey")] == [0, 0, 0]
    # uvicorn ends by the signal that it was sent; process 1 of a container with status 0.
    assert cluster.stop("tuft-api") in (0, -signal.SIGTERM)
