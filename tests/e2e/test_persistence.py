"""What survives what: workers, the whole service, external stores."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tinker
from tinker import types

from tests.e2e.service import running, write_config
from tests.e2e.test_sdk import ADAM, ROW, TIMEOUT, loss_of, train
from tests.helpers.s3_server import S3Server
from tests.waiting import wait_until
from tuft.supervisor.tree import free_port

KEY = "tml-local-dev-key"


def test_killed_workers_come_back_and_nothing_is_lost(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Gradients that were accumulated before the kill count too."""
    with running(tmp_path, write_config(tmp_path, tiny_model_folder)) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        killed, intact = (
            client.create_lora_training_client(base_model="tiny", rank=4, seed=5).result(TIMEOUT)
            for _ in range(2)
        )
        for run in (killed, intact):
            train(run, steps=2)
            run.forward_backward([ROW], "cross_entropy").result(timeout=TIMEOUT)
        intact.optim_step(ADAM).result(timeout=TIMEOUT)
        expected = loss_of(intact)
        sampler = killed.save_weights_and_get_sampling_client().result(TIMEOUT)
        prompt = types.ModelInput.from_ints([5, 6, 7])
        before = sampler.compute_logprobs(prompt).result(timeout=TIMEOUT)
        workers = [service.child(module) for module in ("tuft.training", "tuft.sampling")]
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        killed.optim_step(ADAM).result(timeout=TIMEOUT)
        assert loss_of(killed) == expected
        assert sampler.compute_logprobs(prompt).result(timeout=TIMEOUT) == before


def test_file_redis_survives_a_kill_of_everything(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = write_config(
        tmp_path,
        tiny_model_folder,
        persistence={"mode": "file_redis", "file_path": str(tmp_path / "state")},
    )
    port = free_port()
    with running(tmp_path, config, port=port) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        training = client.create_lora_training_client(base_model="tiny", rank=4).result(TIMEOUT)
        train(training, steps=2)
        training.forward_backward([ROW], "cross_entropy").result(timeout=TIMEOUT)
        tree = psutil.Process(service.process.pid).children(recursive=True)
        service.process.kill()
        # Children end with their supervisor, however it ended.
        _gone, alive = psutil.wait_procs(tree, timeout=20)
        assert not alive
    with running(tmp_path, config, port=port):
        # The same client object goes on, with the gradient from before the kill.
        step = training.optim_step(ADAM).result(timeout=TIMEOUT)
        assert step.metrics is not None
        assert step.metrics["grad_norm"] > 0
        loss_of(training)


@pytest.mark.slow
def test_a_policy_outlives_everybody_before_it_is_in_the_object_store(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    """The trainer is killed between its answer and the upload, then the whole service is."""
    config = write_config(
        tmp_path,
        tiny_model_folder,
        persistence={"mode": "file_redis", "file_path": str(tmp_path / "state")},
    )
    # Nothing can be put below a key that is an object itself.
    obstacle = tmp_path / "checkpoints" / "runs"
    obstacle.parent.mkdir()
    obstacle.touch()
    prompt = types.ModelInput.from_ints(ROW.model_input.to_ints())
    port = free_port()
    with running(tmp_path, config, port=port) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        training = client.create_lora_training_client(base_model="tiny", rank=4).result(TIMEOUT)
        base = client.create_sampling_client(base_model="tiny").result(TIMEOUT)
        train(training, steps=2)
        sampler = training.save_weights_and_get_sampling_client().result(TIMEOUT)
        service.child("tuft.training").kill()
        expected = sampler.compute_logprobs(prompt).result(timeout=TIMEOUT)
        assert expected != base.compute_logprobs(prompt).result(timeout=TIMEOUT)
        # The next trainer has these weights from the journal.
        again = training.save_weights_and_get_sampling_client().result(TIMEOUT)
        assert again.compute_logprobs(prompt).result(timeout=TIMEOUT) == expected
        tree = psutil.Process(service.process.pid).children(recursive=True)
        service.process.kill()
        psutil.wait_procs(tree, timeout=20)
    assert obstacle.is_file()
    with running(tmp_path, config, port=port):
        assert sampler.compute_logprobs(prompt).result(timeout=TIMEOUT) == expected
        obstacle.unlink()
        wait_until(lambda: len(list(obstacle.glob("*/policies/*/manifest.json"))) == 2, 30)
        wait_until(lambda: not list((tmp_path / "state" / "handover").glob("*.new")), 30)


@pytest.mark.slow
def test_a_store_that_can_not_start_is_waited_for(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Its folder is away for a while: the service stays, and goes on when it is back."""
    state, away = tmp_path / "state", tmp_path / "away"
    config = write_config(
        tmp_path, tiny_model_folder, persistence={"mode": "file_redis", "file_path": str(state)}
    )
    with running(tmp_path, config) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        training = client.create_lora_training_client(base_model="tiny", rank=4).result(TIMEOUT)
        train(training, steps=1)
        children = psutil.Process(service.process.pid).children()
        [server] = [child for child in children if "valkey" in child.name()]
        state.rename(away)
        state.write_text("not a folder")
        server.kill()
        wait_until(lambda: "can't start, trying again" in "".join(service.output), 20)
        state.unlink()
        away.rename(state)
        train(training, steps=1)


@pytest.mark.slow
def test_disabled_keeps_checkpoints_over_a_restart(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = write_config(tmp_path, tiny_model_folder)
    with running(tmp_path, config) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        training = client.create_lora_training_client(base_model="tiny", rank=4).result(TIMEOUT)
        train(training, steps=2)
        path = training.save_state("kept").result(timeout=TIMEOUT).path
        expected = loss_of(training)
    with running(tmp_path, config) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        rest = tinker.RestClient(base_url=service.url, api_key=KEY)
        listed = rest.list_user_checkpoints().result(timeout=TIMEOUT).checkpoints
        assert [checkpoint.tinker_path for checkpoint in listed] == [path]
        resumed = client.create_training_client_from_state_with_optimizer(path).result(TIMEOUT)
        assert loss_of(resumed) == expected


def test_external_redis_and_s3(
    tmp_path: Path, tiny_model_folder: Path, s3_server: S3Server, valkey_url: str
) -> None:
    """The configuration of a cluster: state in a shared server, checkpoints in S3."""
    config = write_config(
        tmp_path,
        tiny_model_folder,
        persistence={"mode": "redis_url", "redis_url": valkey_url},
        object_store={
            "kind": "s3",
            "endpoint": s3_server.endpoint,
            "bucket": "e2e",
            "prefix": "team-a",
            "secure": False,
            "access_key": s3_server.access_key,
            "secret_key": s3_server.secret_key,
        },
    )
    with running(tmp_path, config) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
        training = client.create_lora_training_client(base_model="tiny", rank=4).result(TIMEOUT)
        train(training, steps=2)
        path = training.save_state("in-s3").result(timeout=TIMEOUT).path
        expected = loss_of(training)
        resumed = client.create_training_client_from_state(path).result(TIMEOUT)
        assert loss_of(resumed) == expected
        assert not list(service.checkpoint_dir.rglob("*.safetensors"))


@pytest.mark.slow
def test_two_ranks_serve_like_one(tmp_path: Path, tiny_model_folder: Path) -> None:
    losses = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        config = write_config(folder, tiny_model_folder, trainer={"ranks": ranks})
        with running(folder, config) as service:
            client = tinker.ServiceClient(base_url=service.url, api_key=KEY)
            training = client.create_lora_training_client(
                base_model="tiny", rank=4, seed=11
            ).result(TIMEOUT)
            for _ in range(3):
                training.forward_backward([ROW, ROW, ROW], "cross_entropy").result(timeout=TIMEOUT)
                training.optim_step(ADAM).result(timeout=TIMEOUT)
            losses.append(loss_of(training))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_a_port_in_use_is_told_at_once(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = write_config(tmp_path, tiny_model_folder)
    with running(tmp_path, config) as service:
        port = int(service.url.rsplit(":", 1)[1])
        message = f"can't listen on 127.0.0.1:{port}"
        with (
            pytest.raises(RuntimeError, match=message),
            running(tmp_path / "second", config, port=port),
        ):
            pass


def test_a_model_that_is_none_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "no-model"
    empty.mkdir()
    config = write_config(tmp_path, empty)
    with pytest.raises(RuntimeError, match="no-model"), running(tmp_path, config):
        pass


def test_stop_leaves_nothing_running(tmp_path: Path, tiny_model_folder: Path) -> None:
    with running(tmp_path, write_config(tmp_path, tiny_model_folder)) as service:
        tree = psutil.Process(service.process.pid).children(recursive=True)
        assert len(tree) >= 4
        assert service.stop() == 0
        wait_until(lambda: not any(child.is_running() for child in tree), 10)


def test_public_host_without_keys_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    command = ["--host", "0.0.0.0", "--model-config"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tuft.cli",
            *command,
            str(write_config(tmp_path, tiny_model_folder)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "api_keys" in done.stderr
