"""The power of the whole machine goes, again and again, under a real client on another one."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.outages import enduring
from tests.faults.tree import Tree, write_config
from tests.helpers.power_cut import HARSH, power_cut_disk
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning"),
]
_CUTS = 5


def test_the_machine_loses_its_power(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Journal, snapshots, checkpoints and handed-over policies are on the disk that it hits.

    What the client was told is what it finds, and its final weights are those of an undisturbed
    run, to the bit.
    """
    chance = random.Random(11)
    with power_cut_disk(tmp_path, options=HARSH, megabytes=512) as disk:
        config = write_config(tmp_path, tiny_model_folder, persistence=_state(disk.folder))
        service = Tree(disk.folder, config)
        service.start()
        try:
            with enduring(service.url, objects=service.objects) as work:
                for _ in range(_CUTS):
                    work.turns(1)
                    time.sleep(chance.uniform(0.0, 2.0))
                    disk.cut()
                    service.kill("everything")
                    wait_until(service._is_deserted, 30)
                    disk.boot()
                    service.start()
        finally:
            service.stop()
        assert disk.cuts == _CUTS


def _state(folder: Path) -> dict[str, str]:
    return {"mode": "file_redis", "file_path": str(folder / "state")}
