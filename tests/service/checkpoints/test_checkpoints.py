"""Writing, reading, damage, settings, deletion and the scan, on both object stores."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from tests.helpers.objects import Observed
from tests.service.checkpoints.samples import NEW, OLD, RUN_ID, manifest, scan
from tuft.checkpoints import Checkpoints, prefix_of
from tuft.contracts.records import CheckpointManifest, CheckpointSettings
from tuft.errors import DamagedCheckpoint, InvalidRequest, NotFound
from tuft.objects import ObjectStore

PLACE = f"runs/{RUN_ID}/weights/a"
MODEL = f"{PLACE}/adapter_model.safetensors"


def keys(objects: ObjectStore, prefix: str = "") -> set[str]:
    return {info.key for info in objects.list(prefix)}


def test_write_and_read(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    record = checkpoints.write(manifest(user_metadata={"why": "test"}, step_key="k"), NEW)
    assert record.manifest.path == f"tinker://{RUN_ID}/weights/a"
    assert record.manifest.size_bytes == sum(map(len, NEW.values()))
    assert keys(object_store) == {f"{PLACE}/{name}" for name in (*NEW, "manifest.json")}
    # What a user finds in the folder is a plain PEFT adapter.
    assert object_store.get(MODEL) == NEW["adapter_model.safetensors"]

    found, files = checkpoints.read(PLACE)
    assert found == record.manifest
    assert files == NEW
    assert checkpoints.read_files(PLACE, ["optimizer.safetensors"]) == {
        "optimizer.safetensors": NEW["optimizer.safetensors"]
    }
    assert checkpoints.record(PLACE) == record
    with pytest.raises(NotFound, match=r"no file 'x'; it has adapter_config\.json, "):
        checkpoints.read_files(PLACE, ["x"])


def test_a_place_of_its_own(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    prefix = f"runs/{RUN_ID}/policies/sampler-1"
    checkpoints.write(manifest(kind="sampler_weights"), OLD, prefix=prefix)
    assert checkpoints.read_files(prefix) == OLD
    checkpoints.remove(prefix)
    assert keys(object_store) == set()


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_a_malformed_name(object_store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidRequest, match="checkpoint name"):
        Checkpoints(object_store).write(manifest(name), OLD)
    with pytest.raises(InvalidRequest, match="checkpoint name"):
        Checkpoints(object_store).delete(RUN_ID, "weights", name)
    assert keys(object_store) == set()


def test_a_duplicate_name(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    first = checkpoints.write(manifest(), OLD)
    with pytest.raises(InvalidRequest, match=f"tinker://{RUN_ID}/weights/a exists already"):
        checkpoints.write(manifest(step=4), NEW)
    assert checkpoints.record(PLACE) == first
    assert checkpoints.read_files(PLACE) == OLD
    # The same name in another kind is another checkpoint.
    checkpoints.write(manifest(kind="sampler_weights"), NEW)
    assert checkpoints.read_files(PLACE) == OLD


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_replay_finds_its_own_work(object_store: ObjectStore, overwrite: bool) -> None:
    first = Checkpoints(object_store).write(manifest(request_id="run:5"), OLD)
    changes: list[str] = []
    observed = Observed(object_store, lambda operation, key: changes.append(f"{operation} {key}"))
    again = Checkpoints(observed).write(
        manifest(request_id="run:5", created_at=9.0), NEW, overwrite=overwrite
    )
    assert again == first
    assert not [change for change in changes if change.startswith(("put", "delete"))]
    with pytest.raises(InvalidRequest, match="exists already"):
        Checkpoints(object_store).write(manifest(request_id="run:6"), NEW)


def test_a_replay_writes_again_what_was_damaged(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(request_id="run:5"), OLD)
    object_store.put(MODEL, b"damaged")
    checkpoints.write(manifest(request_id="run:5"), OLD)
    assert checkpoints.read_files(PLACE) == OLD


def test_overwrite(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(), OLD, settings=CheckpointSettings(public=True, expires_at=5.0))
    for step, files in ((4, NEW), (5, OLD)):
        checkpoints.write(manifest(step=step), files, overwrite=True)
        found, content = checkpoints.read(PLACE)
        assert found.step == step
        assert content == files
        # Settings belong to what was overwritten.
        assert checkpoints.settings(PLACE) == CheckpointSettings()
        assert len(keys(object_store)) == len(files) + 1


def test_settings(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    wanted = CheckpointSettings(public=True, expires_at=12345.5)
    checkpoints.write(manifest(), OLD, settings=wanted)
    assert json.loads(object_store.get(f"{PLACE}/settings.json")) == {
        "public": True,
        "expires_at": 12345.5,
    }
    assert checkpoints.settings(PLACE) == wanted
    record = checkpoints.set_settings(PLACE, CheckpointSettings(public=False, expires_at=None))
    assert record.settings == CheckpointSettings()
    assert checkpoints.record(PLACE) == record
    # Also after an overwrite, whose files have a folder of their own.
    checkpoints.write(manifest(), NEW, overwrite=True, settings=wanted)
    assert checkpoints.settings(PLACE) == wanted
    checkpoints.set_settings(PLACE, CheckpointSettings(public=True))
    assert checkpoints.settings(PLACE) == CheckpointSettings(public=True)
    assert checkpoints.read_files(PLACE) == NEW
    with pytest.raises(NotFound, match="there is no checkpoint"):
        checkpoints.set_settings(prefix_of(RUN_ID, "weights", "b"), wanted)
    object_store.put(f"{prefix_of(RUN_ID, 'weights', 'b')}/settings.json", b"{}")
    with pytest.raises(NotFound, match="there is no checkpoint"):
        checkpoints.settings(prefix_of(RUN_ID, "weights", "b"))


def test_delete(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest("a"), OLD, settings=CheckpointSettings(public=True))
    checkpoints.write(manifest("ab"), NEW)
    checkpoints.delete(RUN_ID, "weights", "a")
    with pytest.raises(NotFound, match=r"there is no checkpoint at 'runs/.*/weights/a'"):
        checkpoints.manifest(PLACE)
    with pytest.raises(NotFound):
        checkpoints.read_files(PLACE)
    assert keys(object_store, PLACE) == set()
    assert checkpoints.read_files(prefix_of(RUN_ID, "weights", "ab")) == NEW
    checkpoints.delete(RUN_ID, "weights", "a")


def test_a_truncated_file(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(), OLD)
    object_store.put(MODEL, OLD["adapter_model.safetensors"][:-1])
    with pytest.raises(
        DamagedCheckpoint, match=r"adapter_model\.safetensors has 14999 bytes.*says 15000"
    ):
        checkpoints.read_files(PLACE)
    # Its other files are still what the manifest says.
    assert checkpoints.read_files(PLACE, ["adapter_config.json"])
    checkpoints.write(manifest(), NEW, overwrite=True)
    assert checkpoints.read_files(PLACE) == NEW


@pytest.mark.parametrize("position", [0, 7777, 14999])
def test_a_flipped_byte(object_store: ObjectStore, position: int) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(), OLD)
    data = bytearray(OLD["adapter_model.safetensors"])
    data[position] ^= 1
    object_store.put(MODEL, bytes(data))
    with pytest.raises(
        DamagedCheckpoint, match=r"adapter_model\.safetensors has sha256 \w+, its manifest says"
    ):
        checkpoints.read_files(PLACE)


def test_a_missing_file(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(), OLD)
    object_store.delete(MODEL)
    with pytest.raises(DamagedCheckpoint, match=r"adapter_model\.safetensors is missing"):
        checkpoints.read_files(PLACE)


def test_a_missing_manifest(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(), OLD)
    object_store.delete(f"{PLACE}/manifest.json")
    with pytest.raises(NotFound, match="there is no checkpoint"):
        checkpoints.read_files(PLACE)
    assert scan(checkpoints) == []
    checkpoints.write(manifest(), NEW)
    assert checkpoints.read_files(PLACE) == NEW
    assert len(keys(object_store)) == len(NEW) + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-40],
        lambda text: b"",
        lambda text: text.replace(b'"size"', b'"sise"'),
        lambda text: text.replace(b'"format": 1', b'"format": 2'),
        lambda text: text.replace(b"weights", b"\xff\xfe"),
    ],
)
def test_a_damaged_manifest(object_store: ObjectStore, change: object) -> None:
    assert callable(change)
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest(), OLD)
    text = object_store.get(f"{PLACE}/manifest.json")
    assert change(text) != text
    object_store.put(f"{PLACE}/manifest.json", change(text))
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json is damaged"):
        checkpoints.read_files(PLACE)
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json is damaged"):
        checkpoints.write(manifest(), NEW)
    checkpoints.write(manifest(), NEW, overwrite=True)
    assert checkpoints.read_files(PLACE) == NEW


def test_a_manifest_cannot_point_elsewhere(object_store: ObjectStore) -> None:
    checkpoints = Checkpoints(object_store)
    checkpoints.write(manifest("secret"), OLD)
    written = checkpoints.write(manifest(), OLD).manifest
    forged = written.model_copy(update={"folder": "../secret"})
    object_store.put(f"{PLACE}/manifest.json", forged.model_dump_json().encode())
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json is damaged"):
        checkpoints.read_files(PLACE)


def test_scan(object_store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(object_store)
    expected = [
        checkpoints.write(manifest("a"), OLD),
        checkpoints.write(
            manifest("b"), OLD, settings=CheckpointSettings(public=True, expires_at=1.0)
        ),
        checkpoints.write(manifest("a", kind="sampler_weights"), OLD),
        checkpoints.write(manifest("x", kind="external_weights"), OLD),
    ]
    expected[0] = checkpoints.write(manifest("a"), NEW, overwrite=True)
    checkpoints.write(manifest("n"), OLD, prefix=f"runs/{RUN_ID}/snapshots/12")
    checkpoints.write(manifest("n"), OLD, prefix=f"runs/{RUN_ID}/policies/s-1")
    object_store.put(f"runs/{RUN_ID}/weights/damaged/manifest.json", b"{")
    object_store.put(f"runs/{RUN_ID}/weights/unfinished/adapter_config.json", b"{}")
    moved = object_store.get(f"runs/{RUN_ID}/weights/b/manifest.json")
    object_store.put(f"runs/{RUN_ID}/weights/moved/manifest.json", moved)
    with caplog.at_level(logging.WARNING):
        found = scan(checkpoints)
    assert sorted(found, key=lambda r: r.manifest.path) == sorted(
        expected, key=lambda r: r.manifest.path
    )
    assert "weights/damaged/manifest.json is damaged" in caplog.text
    assert f"weights/moved names tinker://{RUN_ID}/weights/b" in caplog.text


def test_a_checkpoint_is_a_folder_that_survives_a_copy(tmp_path: Path) -> None:
    from tuft.objects import LocalObjects

    Checkpoints(LocalObjects(tmp_path / "one")).write(manifest(), NEW)
    os.rename(tmp_path / "one", tmp_path / "two")
    again = Checkpoints(LocalObjects(tmp_path / "two"))
    assert again.read_files(PLACE) == NEW
    assert [record.manifest.name for record in scan(again)] == ["a"]
    assert isinstance(again.manifest(PLACE), CheckpointManifest)
