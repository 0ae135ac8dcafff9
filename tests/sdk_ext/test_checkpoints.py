"""A checkpoint's files, fetched from a real service and checked on arrival."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tuft_sdk
from tests.sdk_ext.web import Answer, web
from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import ALICE, Api, config_of, serving

MANIFEST = b"""{"path": "tinker://r:train:0/weights/a", "base_model": "tiny", "lora": {"rank": 8},
"parent": null, "step": 1, "step_key": null, "created_at": 1.0, "user_metadata": {},
"files": {"a.bin": {"size": 3, "sha256":
"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}}"""


@pytest.fixture
def api(valkey_url: str, tmp_path: Path) -> Iterator[Api]:
    with serving(config_of(tmp_path), valkey_url) as running:
        yield running


def test_a_file_of_a_checkpoint(api: Api, tmp_path: Path) -> None:
    run_id, content = api.run(), b"x" * 3_000_000
    write_checkpoint(api, run_id, "weights", "a", content=content)
    with tuft_sdk.connect(api.url, ALICE, deadline_s=5) as client:
        found = client.checkpoint(f"tinker://{run_id}/weights/a")
        client.download(found, "adapter_model.safetensors", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == content
        assert client.base_model_of(run_id) == found.base_model
        with pytest.raises(tuft_sdk.NotThere, match="has no file nothing"):
            client.download(found, "nothing", tmp_path / "file")
        with pytest.raises(tuft_sdk.NotThere):
            client.checkpoint(f"tinker://{run_id}/weights/b")
        for path in ("weights/a", f"tinker://{run_id}/other/a", f"tinker://{run_id}/weights/a/b"):
            with pytest.raises(tuft_sdk.ConfigurationError, match="must be tinker://"):
                client.checkpoint(path)


def test_a_file_that_came_otherwise_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with (
        web(Answer(200, MANIFEST), Answer(503), Answer(200, b"abc"), Answer(200, b"abd")) as site,
        tuft_sdk.connect(site.url, "tml-key", deadline_s=5) as client,
    ):
        found = client.checkpoint("tinker://r:train:0/weights/a")
        client.download(found, "a.bin", file)
        assert file.read_bytes() == b"abc"
        with pytest.raises(tuft_sdk.Transient, match="was it overwritten"):
            client.download(found, "a.bin", file)
