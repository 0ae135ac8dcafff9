"""At every limit on what waits, the unmodified SDK goes slower, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker
from tinker import types

from tests.e2e.service import running, write_config
from tests.e2e.test_sdk import ADAM, ROW, TIMEOUT, loss_of, new_run

LIMITS = {
    "max_pending_operations": 3,
    "max_tenant_operations": 4,
    "max_journal_operations": 6,
    "max_pending_tokens": 16,
    "max_pending_samples": 3,
    "max_tenant_samples": 2,
    "max_kept_results": 60,
}
STEPS = 6


@pytest.mark.slow
def test_a_client_that_hurries_is_slowed_down_and_all_is_done(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Counter[int] = Counter()
    send = httpx.AsyncClient.send

    async def counted(self: httpx.AsyncClient, *args: Any, **more: Any) -> httpx.Response:
        response = await send(self, *args, **more)
        answers[response.status_code] += 1
        return response

    monkeypatch.setattr(httpx.AsyncClient, "send", counted)
    losses = {}
    for name, limits in (("limited", LIMITS), ("free", {})):
        folder = tmp_path / name
        folder.mkdir()
        config = write_config(folder, tiny_model_folder, limits=limits)
        with running(folder, config) as service:
            client = tinker.ServiceClient(base_url=service.url, api_key="tml-local-dev-key")
            losses[name] = _hurry(client)
        assert (answers[429] > 5) == (name == "limited")
        assert not any(status >= 500 for status in answers)
        answers.clear()
    assert losses["limited"] == losses["free"]


def _hurry(client: tinker.ServiceClient) -> list[float]:
    """Two runs and a sampler, everything sent at once; how the runs ended."""
    runs = [new_run(client, seed=seed) for seed in (1, 2)]
    sampler = client.create_sampling_client(base_model="tiny").result()
    params = types.SamplingParams(max_tokens=8, temperature=1.0, seed=3)
    prompt = types.ModelInput.from_ints([5, 6, 7])
    sent: list[Any] = [sampler.sample(prompt, 1, params) for _ in range(8)]
    for _ in range(STEPS):
        for run in runs:
            sent += [run.forward_backward([ROW], "cross_entropy"), run.optim_step(ADAM)]
    for future in sent:
        future.result(timeout=3 * TIMEOUT)
    return [loss_of(run) for run in runs]
