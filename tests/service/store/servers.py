"""Embedded servers of their own, for tests that kill or reconfigure them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore


@contextmanager
def server(folder: Path, *, durable: bool = False) -> Iterator[EmbeddedStore]:
    """A running server whose files are under `folder`."""
    run_folder = folder / "run"
    run_folder.mkdir(parents=True, exist_ok=True)
    config = PersistenceConfig.disabled()
    if durable:
        config = PersistenceConfig.from_file_redis(folder / "data")
    embedded = EmbeddedStore(config, run_folder)
    embedded.start()
    try:
        yield embedded
    finally:
        if embedded.pid is not None and embedded.alive():
            os.kill(embedded.pid, signal.SIGCONT)  # a stopped one would not hear SIGTERM
        embedded.stop()


def kill(embedded: EmbeddedStore) -> None:
    """kill -9, and wait until it is dead."""
    assert embedded.pid is not None
    os.kill(embedded.pid, signal.SIGKILL)
    wait_until(lambda: not embedded.alive(), 10)
