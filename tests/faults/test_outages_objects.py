"""The object store is away, deaf, slow or unreliable: clients see a pause at most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.outages import enduring
from tests.faults.tree import Tree, tree
from tests.helpers.http_proxy import Proxy, Trouble, s3_proxy
from tests.helpers.s3_server import S3Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning"),
]


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with s3_proxy(s3_server.endpoint) as found:
        yield found


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_folder: Path,
    s3_server: S3Server,
    proxy: Proxy,
) -> Iterator[Tree]:
    """`tuft` with everything that can be in the object store there, and small payloads, too."""
    config = s3_server.config(endpoint=proxy.endpoint, bucket="outages")
    store = config.model_dump(exclude_none=True)
    with tree(
        tmp_path_factory.mktemp("service"),
        tiny_model_folder,
        faults=False,
        object_store=store,
        trainer={"snapshots": "object_store"},
    ) as found:
        yield found


@pytest.mark.parametrize(
    ("trouble", "seconds", "pause_s"),
    [
        ("away", 60, 120),
        ("deaf", 60, 180),
        ("slow", 30, 90),
        ("third", 30, 60),
        ("third-cut", 30, 60),
    ],
)
def test_the_object_store_in_trouble(
    service: Tree, proxy: Proxy, trouble: Trouble, seconds: float, pause_s: float
) -> None:
    before = proxy.hit
    with enduring(service.url, tenants=["alice", "bob"]) as work:
        proxy.trouble = trouble
        try:
            time.sleep(seconds)
        finally:
            proxy.trouble = "none"
    assert proxy.hit > before
    assert work.longest_pause_s < pause_s
