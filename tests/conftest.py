"""Fixtures that all tests share. Heavy imports stay inside, so that other tests start fast."""

from __future__ import annotations

import logging
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.helpers.s3_server import S3Server
    from tuft.objects import ObjectStore

# kfp.local writes what any logger says into a pipeline's log. Clients that earlier tests left behind
# would tell there, at length, that their servers are gone.
logging.getLogger("tinker").propagate = False

# Time says nothing on a busy machine, and the same examples are tried every time.
settings.register_profile("tuft", deadline=None, derandomize=True, database=None)
settings.load_profile("tuft")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 (4 layers, hidden 64, vocabulary 512, context 256) with a tokenizer."""
    from tests.helpers.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture(scope="session")
def tiny_tied_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same size as a Llama, with tied input and output embeddings."""
    from tests.helpers.tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    return build_tiny_model(folder, architecture="llama", tied=True)


@pytest.fixture(scope="session")
def tiny_vllm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Qwen3 with heads as wide as vLLM needs them on CPU."""
    from tests.helpers.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen3-wide", head_dim=32)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with credentials and the name of a bucket for tests."""
    from tests.helpers.s3_server import run_s3_server

    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def object_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty object store of each backend in turn."""
    from tuft.config import ObjectStoreConfig
    from tuft.objects import open_object_store

    if request.param == "local":
        return open_object_store(ObjectStoreConfig(), tmp_path / "objects")
    server: S3Server = request.getfixturevalue("s3_server")
    return open_object_store(server.config(prefix=f"tests/{uuid.uuid4().hex}"))


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Valkey that lives as long as the tests; use `valkey_url` in most of them."""
    from tuft.persistence import PersistenceConfig
    from tuft.store import EmbeddedStore

    server = EmbeddedStore(PersistenceConfig.disabled(), tmp_path_factory.mktemp("valkey"))
    yield server.start()
    server.stop()


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """URL of a real Valkey that is empty when the test begins."""
    from tuft.store import connect

    connect(valkey_server).flushall()
    return valkey_server


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        answer = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if answer.returncode:
        pytest.skip(f"this user can't mount a small disk: {answer.stderr.strip()}")
    yield folder
    # Lazily: what the test left open is closed when it is collected.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
