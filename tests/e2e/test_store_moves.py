"""A service that moves: its store is exported, imported elsewhere, and work goes on there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tinker

from tests.e2e.service import running, write_config
from tests.e2e.test_sdk import ADAM, ROW, TIMEOUT, loss_of, train
from tuft.cli import main
from tuft.supervisor.tree import free_port


@pytest.mark.slow
def test_a_client_goes_on_with_the_store_of_another_folder(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    port = free_port()

    def config_of(state: Path) -> Path:
        return write_config(
            tmp_path,
            tiny_model_folder,
            persistence={"mode": "file_redis", "file_path": str(state)},
            # Snapshots are taken, and the journal behind them is trimmed: they have to come along.
            trainer={"snapshot_every_tokens": 1},
        )

    with running(tmp_path, config_of(old), port=port) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key="tml-local-dev-key")
        training = client.create_lora_training_client(base_model="tiny", rank=4).result(TIMEOUT)
        train(training, steps=3)
        expected = loss_of(training)
        training.forward_backward([ROW], "cross_entropy").result(timeout=TIMEOUT)

    place = ["--model-config", str(tmp_path / "models.yaml")]
    place += ["--checkpoint-dir", str(service.checkpoint_dir)]
    assert main(["store", "check", *place]) == 0
    assert main(["store", "export", str(tmp_path / "saved"), *place]) == 0
    shutil.rmtree(old)
    config_of(new)
    assert main(["store", "import", str(tmp_path / "saved"), *place]) == 0
    assert main(["store", "check", *place]) == 0

    with running(tmp_path, config_of(new), port=port):
        # The same client object goes on, with the gradient from before.
        assert loss_of(training) == expected
        step = training.optim_step(ADAM).result(timeout=TIMEOUT)
        assert step.metrics is not None
        assert step.metrics["grad_norm"] > 0
        assert loss_of(training) < expected
