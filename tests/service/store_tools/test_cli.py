"""`tuft store` as an operator uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.leases import take_lease
from tests.service.store.records import MODEL, RUN, accept, complete_up_to, create_run, operation
from tests.service.store.servers import server
from tuft.cli import main
from tuft.store import EmbeddedStore, Store, connect, embedded


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a file_redis store whose service was stopped in the middle of work."""
    with server(tmp_path, durable=True) as running:
        _fill(running)
    return tmp_path / "data"


def _fill(running: EmbeddedStore) -> None:
    store = Store(connect(running.url))
    create_run(store)
    for seq in (1, 2):
        accept(store, operation(seq), b"payload")
    complete_up_to(store, take_lease(store, f"trainer:{MODEL}"), 1)


def test_a_store_moves_to_another_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, new = tmp_path / "saved.jsonl", tmp_path / "new"
    assert main(["store", "export", "--file-path", str(data), str(saved)]) == 0
    assert "save that, too" in capsys.readouterr().out
    assert main(["store", "import", "--file-path", str(new), str(saved)]) == 0
    assert main(["store", "check", "--file-path", str(new)]) == 0
    assert "all is well" in capsys.readouterr().out
    assert main(["store", "info", "--json", "--file-path", str(new)]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["training_runs"], info["operations_pending"], info["version"]) == (1, 1, 1)
    assert info["last_request_at"] == 1002.25
    assert main(["store", "info", "--file-path", str(new)]) == 0
    assert "training runs with something pending   1\n" in capsys.readouterr().out


def test_clearing_has_to_be_meant(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "clear", "--file-path", str(data)]) == 1
    assert "say --yes" in capsys.readouterr().err
    assert main(["store", "check", "--file-path", str(data)]) == 0
    assert main(["store", "clear", "--yes", "--file-path", str(data)]) == 0
    capsys.readouterr()
    assert main(["store", "info", "--json", "--file-path", str(data)]) == 0
    assert json.loads(capsys.readouterr().out)["keys"] == 0


def test_damage_is_an_exit_status(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(tmp_path, durable=True) as running:
        connect(running.url).hdel(f"tuft:payloads:{RUN}", 2)
    assert main(["store", "check", "--file-path", str(data)]) == 1
    assert "the payload of seq_id 2 is gone" in capsys.readouterr().out


def test_the_place_as_the_service_has_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.yaml"
    config = {
        "supported_models": [{"model_name": "a", "model_path": str(tmp_path)}],
        "persistence": {"mode": "file_redis", "file_path": str(data)},
    }
    models.write_text(yaml.safe_dump(config))
    place = ["--model-config", str(models)]
    assert main(["store", "check", *place, "--checkpoint-dir", str(tmp_path / "objects")]) == 0
    assert "not looked at" not in capsys.readouterr().out
    models.write_text(yaml.safe_dump({**config, "persistence": {"mode": "disabled"}}))
    assert main(["store", "info", *place]) == 78
    assert "is on no disk" in capsys.readouterr().err


def test_a_place_where_no_store_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", "--file-path", str(tmp_path / "typo")]) == 78
    assert "there is no store in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["store", "info", "--redis-url", "localhost:6379"]) == 78
    assert "must begin with one of" in capsys.readouterr().err


def test_a_store_that_a_service_works_on_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_LOCK_TIMEOUT_S", 0.2)
    with server(tmp_path, durable=True) as running:
        assert main(["store", "info", "--file-path", str(tmp_path / "data")]) == 78
        assert "used by another running service" in capsys.readouterr().err
        place = ["--redis-url", running.url]
        store = Store(connect(running.url))
        store.workers.report("a worker", "trainer", MODEL, "ready")
        for command in (["export", str(tmp_path / "saved")], ["clear", "--yes"], ["check"]):
            assert main(["store", *command, *place]) == 1
            assert (
                f"a service works on this store (heard of within the last 15 seconds: trainer of {MODEL})"
                in capsys.readouterr().err
            )
        assert main(["store", "info", *place]) == 0
        assert f"trainer of {MODEL}: ready" in capsys.readouterr().out


def test_a_newer_store_can_be_saved_and_cleared_but_not_served(tmp_path: Path) -> None:
    with server(tmp_path, durable=True) as running:
        _fill(running)
        connect(running.url).set("tuft:schema", 7)
    models = tmp_path / "models.yaml"
    config = {
        "supported_models": [{"model_name": MODEL, "model_path": str(tmp_path)}],
        "persistence": {"mode": "file_redis", "file_path": str(tmp_path / "data")},
    }
    models.write_text(yaml.safe_dump(config))
    serve = [sys.executable, "-m", "tuft.cli", "--model-config", str(models), "--port", "0"]
    folders = ["--checkpoint-dir", str(tmp_path / "c"), "--log-dir", str(tmp_path / "l")]
    refused = subprocess.run([*serve, *folders], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 78
    assert "it is of version 7, this one knows versions up to 1" in refused.stderr
    place = ["--model-config", str(models)]
    assert main(["store", "check", *place]) == 78
    assert main(["store", "export", str(tmp_path / "saved"), *place]) == 0
    assert main(["store", "clear", "--yes", *place]) == 0
    assert main(["store", "check", *place]) == 0
