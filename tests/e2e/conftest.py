"""One service for most end-to-end tests; those that break it start their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker

from tests.e2e.service import Service, running, write_config

KEYS = [{"key": "tml-local-dev-key", "tenant": "alice"}, {"key": "tml-bobs-key", "tenant": "bob"}]


def _port() -> int:
    """8080, which the issue's program names, or a free one where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8080))
        except OSError:
            return 0
    return 8080


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Service]:
    """Two tenants, the tiny model, a local object store, no persistence."""
    folder = tmp_path_factory.mktemp("service")
    config = write_config(
        folder,
        tiny_model_folder,
        api_keys=KEYS,
        trainer={"max_lora_rank": 16},
    )
    with running(folder, config, port=_port()) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[tinker.ServiceClient]:
    """A real SDK client of tenant alice."""
    with tinker.ServiceClient(base_url=service.url, api_key="tml-local-dev-key") as client:
        yield client


@pytest.fixture
def bob(service: Service) -> Iterator[tinker.ServiceClient]:
    """A real SDK client of another tenant."""
    with tinker.ServiceClient(base_url=service.url, api_key="tml-bobs-key") as client:
        yield client
