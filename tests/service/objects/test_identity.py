"""Object stores without keys: a pod's identity is exchanged for some."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.s3_server import S3Server
from tests.helpers.sts_server import sts_server
from tuft.errors import ConfigError
from tuft.objects import S3Objects, open_object_store
from tuft_components.artifacts import local_input, local_output

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_KEYS, "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


def test_service_and_steps_use_an_identity(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = s3_server.config().model_copy(update={"access_key": None, "secret_key": None})
    with sts_server(s3_server.access_key, s3_server.secret_key) as sts:
        for name, value in sts.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server.endpoint}")
        objects = open_object_store(config)
        assert isinstance(objects, S3Objects)
        assert sts.asked == [], "not before it is needed: a service starts while others are away"
        objects.put("identity/a", b"of the service")
        assert objects.get("identity/a") == b"of the service"
        assert len(sts.asked) == 1, "keys hold until they expire"
        for _ in range(2):
            uri = f"s3://{s3_server.bucket}/identity/step"
            with local_output(uri) as path:
                path.write_text("of a step")
            with local_input(uri) as path:
                assert path.read_text() == "of a step"
        assert len(sts.asked) == 2


def test_a_key_comes_first(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = s3_server.config().model_copy(update={"access_key": None, "secret_key": None})
    with sts_server("not", "asked") as sts:
        for name, value in {**sts.environment(tmp_path), **s3_server.environment()}.items():
            monkeypatch.setenv(name, value)
        objects = open_object_store(config)
        objects.put("identity/b", b"")
        assert sts.asked == []


def test_neither_key_nor_identity(s3_server: S3Server) -> None:
    config = s3_server.config().model_copy(update={"access_key": None, "secret_key": None})
    with pytest.raises(ConfigError, match="AWS_WEB_IDENTITY_TOKEN_FILE"):
        open_object_store(config)
