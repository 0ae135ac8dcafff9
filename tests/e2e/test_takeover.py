"""Workers that wait take over; restarts and other machines, as unmodified clients see them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import tinker
from tinker import types

from tests.e2e.service import Service, running, write_config
from tests.e2e.test_sdk import ADAM, ROW, TIMEOUT, loss_of, train
from tests.helpers.forwarder import forwarding
from tests.waiting import wait_until
from tuft.supervisor.tree import free_port

KEY = "tml-local-dev-key"
PROMPT = types.ModelInput.from_ints([5, 6, 7])
SAMPLING = types.SamplingParams(max_tokens=8, temperature=1.0, seed=3)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def client_of(service: Service) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=service.url, api_key=KEY)


def new_run(client: tinker.ServiceClient) -> tinker.TrainingClient:
    return client.create_lora_training_client(base_model="tiny", rank=4, seed=5).result(TIMEOUT)


def worker(service: Service, module: str, seat: int) -> psutil.Process:
    """The process of a role that sits in a seat: 1, or 2 for the one that waited at first."""
    for child in psutil.Process(service.process.pid).children():
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if module in child.cmdline() and child.environ()["TUFT_SEAT"] == str(seat):
                return child
    raise LookupError(f"no {module} sits in seat {seat}")


def said(service: Service, log: str, words: str) -> int:
    """How often a child's log has these words."""
    file = service.log_dir / f"{log}.log"
    return len(re.findall(words, file.read_text())) if file.exists() else 0


def losses(training: tinker.TrainingClient) -> tuple[float, float]:
    """Of a training step, before and after it."""
    forward_backward = training.forward_backward([ROW], "cross_entropy")
    training.optim_step(ADAM).result(timeout=TIMEOUT)
    before = forward_backward.result(timeout=TIMEOUT).metrics["loss:sum"]
    return before, loss_of(training)


class Load:
    """Clients at work all the time; `errors` is what they saw."""

    def __init__(self, training: tinker.TrainingClient, sampler: tinker.SamplingClient) -> None:
        self.steps = 0
        self.samples = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(turn,))
            for turn in (lambda: self._train(training), lambda: self._sample(sampler))
        ]

    def _run(self, turn: Any) -> None:
        try:
            while not self._stop.is_set():
                turn()
        except BaseException as error:  # noqa: BLE001  # raised by the test
            self.errors.append(error)

    def _train(self, training: tinker.TrainingClient) -> None:
        train(training, steps=1)
        self.steps += 1

    def _sample(self, sampler: tinker.SamplingClient) -> None:
        sampler.sample(PROMPT, 1, SAMPLING).result(timeout=TIMEOUT)
        self.samples += 1

    def goes_on(self) -> None:
        """Return once both have done something that began after this call."""
        steps, samples = self.steps, self.samples
        wait_until(
            lambda: self.errors or (self.steps > steps + 1 and self.samples > samples + 1), 120
        )
        assert self.errors == []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT)


def test_standbys_take_over_from_the_killed_the_stalled_and_the_stopped(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    config = write_config(
        tmp_path,
        tiny_model_folder,
        trainer={"standby": True, "lease_s": 2},
        sampler={"standby": True},
    )
    with running(tmp_path, config) as service:
        client = client_of(service)
        disturbed, intact = new_run(client), new_run(client)
        expected = [losses(intact) for _ in range(4)]
        sampler = client.create_sampling_client(base_model="tiny").result(TIMEOUT)
        tokens = sampler.sample(PROMPT, 1, SAMPLING).result(TIMEOUT).sequences[0].tokens
        wait_until(lambda: said(service, "trainer-tiny-standby", "waiting to take over"), 120)
        wait_until(lambda: said(service, "sampler-tiny-standby", "waiting to take over"), 120)

        assert losses(disturbed) == expected[0]
        worker(service, "tuft.training", 1).kill()
        worker(service, "tuft.sampling", 1).kill()
        assert losses(disturbed) == expected[1]
        assert sampler.sample(PROMPT, 1, SAMPLING).result(TIMEOUT).sequences[0].tokens == tokens
        # It was the standby, which did not have to load.
        assert said(service, "trainer-tiny-standby", "training tiny") == 1
        assert said(service, "trainer-tiny", "training tiny") == 1

        wait_until(lambda: said(service, "trainer-tiny", "waiting to take over") == 1, 120)
        stalled = worker(service, "tuft.training", 2)
        stalled.suspend()
        assert losses(disturbed) == expected[2]
        assert said(service, "trainer-tiny", "training tiny") == 2
        stalled.resume()
        wait_until(lambda: said(service, "trainer-tiny-standby", "another worker took it"), 30)

        wait_until(lambda: said(service, "trainer-tiny-standby", "waiting to take over") == 2, 120)
        wait_until(lambda: said(service, "sampler-tiny", "waiting to take over") == 1, 120)
        worker(service, "tuft.training", 1).terminate()
        worker(service, "tuft.sampling", 2).terminate()
        assert losses(disturbed) == expected[3]
        assert sampler.sample(PROMPT, 1, SAMPLING).result(TIMEOUT).sequences[0].tokens == tokens
        assert said(service, "trainer-tiny", "stopped") == 1
        assert said(service, "trainer-tiny-standby", "training tiny") == 2


@pytest.mark.parametrize("standby", [True, False])
def test_a_rolling_restart_under_load_shows_no_error(
    tmp_path: Path, tiny_model_folder: Path, standby: bool
) -> None:
    config = write_config(
        tmp_path,
        tiny_model_folder,
        api={"replicas": 2 if standby else 1},
        trainer={"standby": standby},
        sampler={"standby": standby},
    )
    with running(tmp_path, config) as service:
        client = client_of(service)
        training = new_run(client)
        sampler = client.create_sampling_client(base_model="tiny").result(TIMEOUT)
        with Load(training, sampler) as load:
            load.goes_on()
            children = [
                child
                for child in psutil.Process(service.process.pid).children()
                if "-m" in child.cmdline()
            ]
            assert len(children) == (6 if standby else 3)
            for child in children:
                child.terminate()
                # As an operator does it: the next one when this one is gone and work goes on.
                child.wait(30)
                load.goes_on()
        assert load.errors == []
        step = training.optim_step(ADAM).result(timeout=TIMEOUT)
        assert step.metrics is not None
        assert step.metrics["step"] == load.steps + 1


@contextmanager
def two_services(
    tmp_path: Path, tiny_model_folder: Path, valkey_url: str
) -> Iterator[tuple[Service, Service]]:
    """Two `tuft` with one store and one object store, each in a folder of its own."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    configs = [
        write_config(
            folder,
            tiny_model_folder,
            persistence={"mode": "redis_url", "redis_url": valkey_url},
            object_store={"kind": "local", "path": str(tmp_path / "objects")},
        )
        for folder in folders
    ]
    with running(folders[0], configs[0]) as one, running(folders[1], configs[1]) as two:
        yield one, two


def test_a_second_service_on_the_same_store_takes_over(
    tmp_path: Path, tiny_model_folder: Path, valkey_url: str
) -> None:
    """Any api answers any request; the trainer of the second one waits, its sampler works."""
    port = free_port()
    with two_services(tmp_path, tiny_model_folder, valkey_url) as (one, two):
        wait_until(lambda: said(two, "trainer-tiny", "waiting to take over"), 60)
        addresses = [service.url.removeprefix("http://") for service in (one, two)]
        url = f"http://127.0.0.1:{port}"
        with forwarding(addresses[0], port):
            client = tinker.ServiceClient(base_url=url, api_key=KEY)
            disturbed, intact = new_run(client), new_run(client)
            train(intact, steps=4)
            expected = loss_of(intact)
            train(disturbed, steps=2)
        with forwarding(addresses[1], port):
            # The other api, the same trainer.
            train(disturbed, steps=1)
            assert not said(two, "trainer-tiny", "training tiny")
            forward_backward = disturbed.forward_backward([ROW], "cross_entropy")
            tree = psutil.Process(one.process.pid).children(recursive=True)
            for process in [psutil.Process(one.process.pid), *tree]:
                process.kill()
            disturbed.optim_step(ADAM).result(timeout=TIMEOUT)
            forward_backward.result(timeout=TIMEOUT)
            assert said(two, "trainer-tiny", "training tiny") == 1
            assert loss_of(disturbed) == expected
            sampler = disturbed.save_weights_and_get_sampling_client().result(TIMEOUT)
            sampler.sample(PROMPT, 1, SAMPLING).result(timeout=TIMEOUT)
