"""The store stops or dies under load: clients see a pause, and the same weights afterwards."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.faults.outages import enduring
from tests.faults.tree import Tree, tree
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Tree]:
    """`tuft` with file_redis."""
    with tree(tmp_path_factory.mktemp("service"), tiny_model_folder, faults=False) as found:
        yield found


def test_a_store_that_stands_still_for_half_a_minute(service: Tree) -> None:
    """No connection is refused, no reply comes: requests wait, then get 503, then go on."""
    with enduring(service.url, objects=service.objects) as work:
        server = _server(service)
        assert server is not None
        server.send_signal(signal.SIGSTOP)
        time.sleep(30)
        server.send_signal(signal.SIGCONT)
    assert 30 < work.longest_pause_s < 120


def test_a_store_that_is_killed_again_and_again(service: Tree) -> None:
    """In the middle of writes, ten times."""
    chance = random.Random(4)
    with enduring(service.url, objects=service.objects) as work:
        for _ in range(10):
            time.sleep(chance.uniform(0.2, 2.0))
            server = _server(service)
            assert server is not None
            server.kill()
            wait_until(partial(_is_another, service, server.pid), 30)
    assert work.longest_pause_s < 60


def _is_another(service: Tree, pid: int) -> bool:
    server = _server(service)
    return server is not None and server.pid != pid


def _server(service: Tree) -> psutil.Process | None:
    """The store's server, and not what it forks to write its file anew."""
    with suppress(psutil.NoSuchProcess):
        [supervisor] = service.processes("supervisor")
        return next((child for child in supervisor.children() if "valkey" in child.name()), None)
    return None
