"""The network between hosts fails silently: one store, and `tuft` on two hosts that share it."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.outages import enduring
from tests.faults.tree import Tree, write_config
from tests.helpers.hosts import Direction, Host, Network, network
from tests.waiting import wait_until
from tuft.errors import Unavailable
from tuft.store import Store, connect
from tuft.store.embedded import find_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning"),
]
_PORT = 6379
log = logging.getLogger(__name__)


@dataclass
class Cluster:
    """`first` has the working trainer at the beginning; clients speak to `second`."""

    net: Network
    store_host: Host
    hosts: tuple[Host, Host]
    first: Tree
    second: Tree


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with network() as net, ExitStack() as stack:
        store_host, one, two = (net.host(name) for name in ("store", "one", "two"))
        url = _start_store(stack, store_host, folder)
        trees = []
        for host in (one, two):
            below = folder / host.name
            below.mkdir()
            config = write_config(
                below,
                tiny_model_folder,
                persistence={"mode": "redis_url", "redis_url": url, "file_path": None},
                object_store={"kind": "local", "path": str(folder / "objects")},
            )
            tree = Tree(below, config, host=host.address, prefix=host.prefix)
            stack.callback(tree.stop)
            tree.start()
            trees.append(tree)
        yield Cluster(net, store_host, (one, two), trees[0], trees[1])


def _start_store(stack: ExitStack, host: Host, folder: Path) -> str:
    """A durable server as an operator would run it."""
    (folder / "valkey").mkdir()
    options = {
        "bind": "0.0.0.0",
        "protected-mode": "no",
        "port": str(_PORT),
        "dir": str(folder / "valkey"),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    log = stack.enter_context((folder / "valkey.log").open("wb"))
    server = subprocess.Popen([*host.prefix, find_server(), *words], stdout=log, stderr=log)
    stack.callback(server.wait)
    stack.callback(server.kill)
    url = f"redis://{host.address}:{_PORT}"
    wait_until(lambda: _answers(url), 20, "Valkey")
    return url


def _answers(url: str) -> bool:
    try:
        Store(connect(url)).ping()
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("direction", ["both", "to", "from"])
def test_the_host_of_the_working_trainer_is_cut_off(cluster: Cluster, direction: Direction) -> None:
    """Nothing is refused or closed: packets are lost. The other host's trainer takes over; the
    one that was cut off can write nothing any more, and stands by when it is back."""
    leading = _leading(cluster)
    clients = enduring(cluster.second.url, objects=cluster.second.objects)
    with clients as work, cluster.net.cut(cluster.hosts[0], direction):
        time.sleep(20)
    assert work.longest_pause_s < 90
    # Whoever led was cut off or stands by again: somebody leads, and everything was done once.
    log.warning("the lease was held by %s, then by %s", leading, _leading(cluster))


@pytest.mark.parametrize("direction", ["both", "to"])
def test_the_store_is_cut_off_from_everybody(cluster: Cluster, direction: Direction) -> None:
    clients = enduring(cluster.second.url, objects=cluster.second.objects)
    with clients as work, cluster.net.cut(cluster.store_host, direction):
        time.sleep(20)
    assert 20 < work.longest_pause_s < 120


def _leading(cluster: Cluster) -> object:
    """Who holds the trainer's lease."""
    url = f"redis://{cluster.store_host.address}:{_PORT}"
    return connect(url).get("tuft:lease-holder:trainer:tiny")
