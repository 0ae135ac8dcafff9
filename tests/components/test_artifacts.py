"""Artifacts as files and as objects of a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.samples import ROW
from tests.helpers.s3_server import S3Server
from tuft_components.artifacts import local_input, local_output
from tuft_components.batches import read_batch, write_batch
from tuft_components.errors import BadConfiguration, BadData, TransientFailure


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> S3Server:
    s3_server.make_bucket("steps")
    return s3_server


@pytest.fixture
def s3_env(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)


def test_a_batch_goes_through_s3(s3_env: None) -> None:
    artifact = write_batch("s3://steps/runs/1/batch.parquet", [ROW], {})
    assert artifact.uri == "s3://steps/runs/1/batch.parquet"
    assert read_batch(artifact.uri) == [ROW]


def test_an_absent_object_is_bad_data(s3_env: None) -> None:
    for uri in ("s3://steps/nothing", "s3://nobucket/x"):
        with pytest.raises(BadData, match="does not exist"), local_input(uri):
            pass


def test_wrong_keys_are_bad_configuration(s3_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with (
        pytest.raises(BadConfiguration, match="refused the keys"),
        local_output("s3://steps/x") as path,
    ):
        path.write_text("x")


def test_an_object_store_that_is_away_is_transient(
    s3_env: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientFailure, match="can't be reached"), local_input("s3://steps/x"):
        pass


def test_without_an_endpoint_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("MINIO_ENDPOINT", raising=False)
    with pytest.raises(BadConfiguration, match="AWS_ENDPOINT_URL"), local_input("s3://b/k"):
        pass


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_files_by_path_and_by_uri(tmp_path: Path, form: str) -> None:
    uri = form.format(tmp_path / "a" / "b.txt")
    with local_output(uri) as path:
        path.write_text("x")
    with local_input(uri) as path:
        assert path.read_text() == "x"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), local_output(str(target)) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("uri", ["ftp://h/x", "s3://bucket", "file://host/x"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(BadConfiguration, match="give a file path"), local_input(uri):
        pass
