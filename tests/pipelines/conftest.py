"""A service for the pipelines of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import Service, running, write_config

KEY = "tml-local-dev-key"


@pytest.fixture(scope="session")
def pipeline_service(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[Service]:
    """The tiny model, and a local object store."""
    folder = tmp_path_factory.mktemp("pipeline-service")
    with running(folder, write_config(folder, tiny_model_folder)) as service:
        yield service


@pytest.fixture
def service_env(pipeline_service: Service, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a step needs to find the service; this process has it, too."""
    env = {"TINKER_BASE_URL": pipeline_service.url, "TINKER_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env
