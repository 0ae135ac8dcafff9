"""Workers that get no more memory: what needs it fails, and says so; everybody else goes on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import tinker
from tinker import types

from tests.e2e.test_sdk import ADAM, ROW, datum, loss_of, train
from tests.faults.moves import RANK, TIMEOUT_S
from tests.faults.tree import KEYS, tree
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_LONG = list(range(5, 255))


@contextmanager
def _no_more_memory(process: psutil.Process, spare_mb: int) -> Iterator[None]:
    """The process can map so much more than it has now."""
    before = process.rlimit(resource.RLIMIT_AS)
    limit = process.memory_info().vms + spare_mb * 1024 * 1024
    process.rlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(resource.RLIMIT_AS, before)


def test_a_batch_that_is_too_large_for_the_trainer(tmp_path: Path, tiny_model_folder: Path) -> None:
    """One forward_backward fails, and the step that would have used half of it. Its run, and
    other tenants', go on in the same process."""
    trainer = {"micro_batch_tokens": 200_000, "activation_memory_gb": 1000}
    with tree(tmp_path / "t", tiny_model_folder, faults=False, trainer=trainer) as service:
        alice, bob = (
            tinker.ServiceClient(base_url=service.url, api_key=KEYS[name])
            .create_lora_training_client("tiny", rank=RANK, seed=1)
            .result(TIMEOUT_S)
            for name in ("alice", "bob")
        )
        for training in (alice, bob):
            train(training, steps=1)
        [process] = service.processes("trainer")
        huge = [datum(_LONG[:-1], _LONG[1:])] * 600
        with _no_more_memory(process, 100):
            failing = alice.forward_backward(huge, "cross_entropy")
            with pytest.raises(tinker.RequestFailedError, match="memory"):
                failing.result(timeout=TIMEOUT_S)
            with pytest.raises(tinker.RequestFailedError, match="not applied"):
                alice.optim_step(ADAM).result(timeout=TIMEOUT_S)
            for training in (alice, bob):
                train(training, steps=1)
        assert service.processes("trainer") == [process]
        assert loss_of(alice) == loss_of(bob)
        alice.forward_backward(huge, "cross_entropy").result(timeout=TIMEOUT_S)


def test_no_more_memory_in_the_sampler(tmp_path: Path, tiny_model_folder: Path) -> None:
    """It ends and starts again, and does what it had taken once more: clients see a pause."""
    with tree(tmp_path / "t", tiny_model_folder, faults=False) as service:
        client = tinker.ServiceClient(base_url=service.url, api_key=KEYS["alice"])
        sampler = client.create_sampling_client(base_model="tiny").result(TIMEOUT_S)
        expected = sampler.compute_logprobs(ROW.model_input).result(timeout=TIMEOUT_S)
        [process] = service.processes("sampler")
        prompt = types.ModelInput.from_ints(_LONG[:200])
        params = types.SamplingParams(max_tokens=8, temperature=1.0)
        with _no_more_memory(process, 2):
            asked = [sampler.sample(prompt, 32, params) for _ in range(3)]
            wait_until(lambda: service.processes("sampler") != [process], 60, "it to end")
            for future in asked:
                assert len(future.result(timeout=TIMEOUT_S).sequences) == 32
        assert sampler.compute_logprobs(ROW.model_input).result(timeout=TIMEOUT_S) == expected
