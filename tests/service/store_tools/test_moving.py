"""An export leaves nothing behind that is on this machine only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from tests.helpers.leases import take_lease
from tests.service.checkpoints.samples import NEW, OLD, manifest
from tests.service.store.records import MODEL, RUN, accept, complete_up_to, create_run, operation
from tests.service.store.servers import server
from tuft.checkpoints import Checkpoints
from tuft.checkpoints.handover import Handover
from tuft.cli import main
from tuft.contracts.records import SnapshotRecord
from tuft.objects import LocalObjects
from tuft.persistence import PersistenceConfig
from tuft.store import EmbeddedStore, Store, connect

POLICY = f"runs/{RUN}/policies/p"
FILES = {1: OLD, 2: NEW}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store whose run has two snapshots, and a policy that is not uploaded."""
    folder = tmp_path / "data"
    with server(tmp_path, durable=True) as running:
        store = Store(connect(running.url))
        create_run(store)
        lease = take_lease(store, f"trainer:{MODEL}")
        for seq in FILES:
            accept(store, operation(seq))
        complete_up_to(store, lease, max(FILES))
        local = Checkpoints(LocalObjects(folder / "snapshots"))
        for seq, files in FILES.items():
            prefix = f"runs/{RUN}/snapshots/{seq}"
            local.write(manifest(str(seq)), files, prefix=prefix)
            record = SnapshotRecord(seq_id=seq, prefix=prefix, step=seq, local=True)
            store.journal.set_snapshot(lease, RUN, record)
        Handover(folder / "handover").put(POLICY, manifest("p", kind="sampler_weights"), OLD)
    return folder


@contextmanager
def running_on(folder: Path) -> Iterator[Store]:
    with TemporaryDirectory() as run_folder:
        embedded = EmbeddedStore(PersistenceConfig.from_file_redis(folder), Path(run_folder))
        try:
            yield Store(connect(embedded.start()))
        finally:
            embedded.stop()


def models_yaml(tmp_path: Path, data: Path) -> Path:
    file = tmp_path / "models.yaml"
    config = {
        "supported_models": [{"model_name": "a", "model_path": str(tmp_path)}],
        "persistence": {"mode": "file_redis", "file_path": str(data)},
    }
    file.write_text(yaml.safe_dump(config))
    return file


def test_snapshots_and_policies_go_to_the_object_store(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, saved, new = tmp_path / "objects", tmp_path / "saved", tmp_path / "new"
    place = ["--model-config", str(models_yaml(tmp_path, data)), "--checkpoint-dir", str(folder)]
    assert main(["store", "export", *place, str(saved)]) == 0
    assert "3 snapshots and policies of this machine copied" in capsys.readouterr().out
    there = Checkpoints(LocalObjects(folder))
    for seq, files in FILES.items():
        assert there.read_files(f"runs/{RUN}/snapshots/{seq}") == files
    assert there.read_files(POLICY) == OLD
    assert Handover(data / "handover").waiting() == []
    assert main(["store", "import", "--file-path", str(new), str(saved)]) == 0
    with running_on(new) as store:
        status = store.runs.status(RUN)
    kept = [snapshot for snapshot in (status.snapshot, status.snapshot_before) if snapshot]
    assert [(snapshot.seq_id, snapshot.local) for snapshot in kept] == [(2, False), (1, False)]
    # Nothing is left to do a second time.
    capsys.readouterr()
    assert main(["store", "export", *place, str(tmp_path / "again")]) == 0
    assert "copied" not in capsys.readouterr().out


def test_without_an_object_store_it_says_what_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "export", "--file-path", str(data), str(tmp_path / "saved")]) == 78
    assert "2 snapshots and 1 policies are on this machine only" in capsys.readouterr().err
    assert not (tmp_path / "saved").exists()


def test_of_two_snapshots_the_older_may_be_gone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoints(LocalObjects(data / "snapshots")).remove(f"runs/{RUN}/snapshots/1")
    place = ["--model-config", str(models_yaml(tmp_path, data))]
    place += ["--checkpoint-dir", str(tmp_path / "objects")]
    assert main(["store", "export", *place, str(tmp_path / "saved")]) == 0
    Checkpoints(LocalObjects(data / "snapshots")).remove(f"runs/{RUN}/snapshots/2")
    assert main(["store", "export", *place, str(tmp_path / "again")]) == 0
