"""One api for the tests of a module, which begin with sessions of their own; or a fresh one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.api.harness import Api, Trainer, config_of, serving
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedStore(PersistenceConfig.disabled(), tmp_path_factory.mktemp("valkey"))
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def api(module_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(config_of(tmp_path_factory.mktemp("api")), module_store) as running:
        yield running


@pytest.fixture
def trainer(api: Api) -> Trainer:
    """With the lease of the model; who makes another takes it over."""
    return Trainer(api.store)


@pytest.fixture
def fresh_api(valkey_url: str, tmp_path: Path) -> Iterator[Api]:
    """For what looks at all that a tenant has."""
    with serving(config_of(tmp_path), valkey_url) as running:
        yield running
