"""Tokenizers are fetched once, cached by ETag, and never half unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from tests.sdk_ext.web import Answer, web
from tuft.api.tokenizers import tokenizer_archive
from tuft_sdk import SdkError
from tuft_sdk.extension import ExtensionClient
from tuft_sdk.tokenizers import fetch_tokenizer, load_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return buffer.getvalue()


def test_the_services_archive_becomes_a_tokenizer(tiny_model_folder: Path) -> None:
    archive, etag = tokenizer_archive(tiny_model_folder)
    with (
        web(Answer(200, archive, {"ETag": etag}), Answer(304, headers={"ETag": etag})) as site,
        ExtensionClient(site.url, "tml-k") as client,
    ):
        folder = fetch_tokenizer(client, site.url, "org/tiny")
        assert fetch_tokenizer(client, site.url, "org/tiny") == folder
    assert site.seen[0].path == "/api/v1/tuft/models/org/tiny/tokenizer"
    assert "if-none-match" not in site.seen[0].headers
    assert site.seen[1].headers["if-none-match"] == etag
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("the quick dog")
    assert tokenizer.decode(ids) == "the quick dog"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    assert str(chat).endswith("assistant\n")


def test_a_changed_tokenizer_is_fetched_again() -> None:
    first, second = _archive(a="1"), _archive(a="2")
    with (
        web(Answer(200, first, {"ETag": '"1"'}), Answer(200, second, {"ETag": '"2"'})) as site,
        ExtensionClient(site.url, "tml-k") as client,
    ):
        assert (fetch_tokenizer(client, site.url, "m") / "a").read_text() == "1"
        assert (fetch_tokenizer(client, site.url, "m") / "a").read_text() == "2"


def test_a_lost_cache_is_filled_again() -> None:
    with (
        web(Answer(200, _archive(a="1"), {"ETag": '"1"'})) as site,
        ExtensionClient(site.url, "tml-k") as client,
    ):
        folder = fetch_tokenizer(client, site.url, "m")
        (folder / "a").unlink()
        folder.rmdir()
        assert (fetch_tokenizer(client, site.url, "m") / "a").read_text() == "1"
    assert "if-none-match" not in site.seen[1].headers


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"no zip", "not a zip"), (_archive(__etc__passwd="x"), "unexpected name")],
)
def test_a_bad_archive_is_refused_and_leaves_nothing(
    body: bytes, says: str, tmp_path: Path
) -> None:
    with (
        web(Answer(200, body, {"ETag": '"1"'})) as site,
        ExtensionClient(site.url, "tml-k") as client,
        pytest.raises(SdkError, match=says),
    ):
        fetch_tokenizer(client, site.url, "m")
    assert not list((tmp_path / "cache").rglob("passwd"))
    assert not list((tmp_path / "cache" / "tuft" / "tokenizers").iterdir())


def test_a_cache_folder_that_cant_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with (
        web(Answer(200, _archive(a="1"), {"ETag": '"1"'})) as site,
        ExtensionClient(site.url, "tml-k") as client,
    ):
        assert fetch_tokenizer(client, site.url, "m").is_relative_to(tmp_path / "tmp")
