from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.service.checkpoints.samples import manifest as manifest_of
from tuft.checkpoints.handover import Handover

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}


def test_a_policy_is_there_whole_before_and_after_its_upload(tmp_path: Path) -> None:
    trainer, sampler = Handover(tmp_path / "policies", sync=True), Handover(tmp_path / "policies")
    assert sampler.get("runs/a/policies/1") is None
    manifest = manifest_of("a", request_id="a:1")
    trainer.put("runs/a/policies/1", manifest, FILES)
    for waiting in (["runs/a/policies/1"], []):
        assert trainer.waiting() == waiting
        handed = sampler.get("runs/a/policies/1")
        assert handed is not None
        assert (handed.manifest, handed.files) == (manifest, FILES)
        assert sampler.get("runs/a/policies/2") is None
        trainer.uploaded("runs/a/policies/1")
    trainer.uploaded("runs/a/policies/1")


def test_an_operation_done_again_keeps_what_it_wrote(tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    first = manifest_of("a", request_id="a:1")
    handover.put("a", first, FILES)
    again = first.model_copy(update={"created_at": 5.0})
    assert handover.put("a", again, {"adapter_config.json": b"other"}) == first
    handed = handover.get("a")
    assert handed is not None
    assert handed.files == FILES


@pytest.mark.parametrize("cut", [0, 10, 700])
def test_a_damaged_file_is_no_policy(tmp_path: Path, cut: int) -> None:
    handover = Handover(tmp_path)
    handover.put("whole", manifest_of("a"), FILES)
    handover.put("damaged", manifest_of("b"), FILES)
    assert handover.waiting() == ["whole", "damaged"]
    place = handover._place("damaged", ".new")
    data = bytearray(place.read_bytes())
    if cut:
        del data[-cut:]
    else:
        data[-200] ^= 1
    place.write_bytes(data)
    assert handover.get("damaged") is None
    assert handover.waiting() == ["whole"]
    assert handover.get("whole") is not None


def test_only_the_newest_stay_after_their_upload(tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    abandoned = tmp_path / ".half"
    abandoned.touch()
    os.utime(abandoned, (1, 1))
    for number in range(12):
        handover.put(f"p{number}", manifest_of("a"), FILES, uploaded=number % 2 == 1)
        os.utime(handover._place(f"p{number}", (".new", ".kept")[number % 2]), (number, number))
        handover.uploaded(f"p{number}")
    there = [n for n in range(12) if handover.get(f"p{n}") is not None]
    assert there == [10, 11]
    assert len(list(tmp_path.glob("*.kept"))) == 2
    assert len(list(tmp_path.iterdir())) <= 2 + 2


def test_a_policy_is_not_written_over_while_it_is_read(tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    handover.put("read", manifest_of("a"), FILES, uploaded=True)
    handed = handover.get("read")
    assert handed is not None
    place = handover._place("read", ".kept")
    for number, other in enumerate((b"other", b"others" * 5000)):
        # As if newer ones had come meanwhile.
        place.rename(place.with_suffix(".spare"))
        handover.put(f"p{number}", manifest_of("a"), {"adapter_config.json": other})
        assert handed.files == FILES
        place = handover._place(f"p{number}", ".new")
        assert place.stat().st_nlink == 1
    spare = place.stat().st_ino
    place.rename(place.with_suffix(".spare"))
    handover.put("short", manifest_of("a"), FILES)
    assert handover._place("short", ".new").stat().st_ino == spare
    short = handover.get("short")
    assert short is not None
    assert short.files == FILES


def test_it_is_full_when_uploads_lag_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuft.checkpoints.handover._NEW_FILES", 2)
    handover = Handover(tmp_path)
    for number in range(2):
        assert not handover.full
        handover.put(f"p{number}", manifest_of("a"), FILES)
    assert handover.full
    handover.uploaded("p0")
    assert not handover.full
