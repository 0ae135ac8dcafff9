"""Disks that are full: the store's makes clients wait, the object store's fails what needs it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tinker

from tests.e2e.test_sdk import ROW, train
from tests.faults.moves import RANK, TIMEOUT_S
from tests.faults.outages import enduring
from tests.faults.tree import KEYS, tree
from tests.helpers.small_disk import filled, small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning"),
]


def test_no_room_for_journal_and_snapshots(tmp_path: Path, tiny_model_folder: Path) -> None:
    """The disk of the state folder is full for twenty seconds: Valkey can't append, nor start."""
    with small_disk(tmp_path / "disk", 64) as disk:
        persistence = {"mode": "file_redis", "file_path": str(disk / "state")}
        with tree(tmp_path / "t", tiny_model_folder, faults=False, persistence=persistence) as t:
            with enduring(t.url, objects=t.objects) as work, filled(disk):
                time.sleep(20)
            log = next(t.folder.rglob("store.log")).read_text()
            # It is tried again and again, and not all the time.
            assert 3 < log.count("is starting") < 40
        assert 15 < work.longest_pause_s < 90


def test_no_room_in_the_object_store(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Saving says why it fails, training goes on; and saving does, once there is room."""
    with small_disk(tmp_path / "disk", 16) as disk:
        objects = {"kind": "local", "path": str(disk / "objects")}
        with tree(tmp_path / "t", tiny_model_folder, faults=False, object_store=objects) as service:
            client = tinker.ServiceClient(base_url=service.url, api_key=KEYS["alice"])
            training = client.create_lora_training_client("tiny", rank=RANK).result(TIMEOUT_S)
            train(training, steps=1)
            path = training.save_state("before").result(timeout=TIMEOUT_S).path
            with filled(disk):
                with pytest.raises(tinker.RequestFailedError, match="no space left"):
                    training.save_state("full").result(timeout=TIMEOUT_S)
                train(training, steps=2)
                # The newest policy goes to the sampler all the same.
                sampler = training.save_weights_and_get_sampling_client().result(TIMEOUT_S)
                sampler.compute_logprobs(ROW.model_input).result(timeout=TIMEOUT_S)
            training.save_state("full").result(timeout=TIMEOUT_S)
            client.create_training_client_from_state(path).result(TIMEOUT_S)
