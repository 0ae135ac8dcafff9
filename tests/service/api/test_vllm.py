"""What a service that samples with vLLM refuses before anything is queued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.api.checkpoints import write_checkpoint
from tests.service.api.harness import (
    Api,
    base_sampler,
    config_of,
    ok,
    refused,
    sample_body,
    serving,
)
from tuft.config import SamplerConfig, VllmConfig
from tuft.contracts.records import LoraSpec


@pytest.fixture
def vllm_api(valkey_url: str, tmp_path: Path) -> Iterator[Api]:
    sampler = SamplerConfig(engine="vllm", vllm=VllmConfig(max_lora_rank=8))
    config = config_of(tmp_path).model_copy(update={"sampler": sampler})
    with serving(config, valkey_url) as running:
        yield running


def test_policies_it_can_not_serve(vllm_api: Api) -> None:
    api = vllm_api
    run = api.store.runs.get(api.run())
    specs = {
        "lm_head": LoraSpec(rank=8, alpha=32, seed=1, train_unembed=True),
        "ranks up to 8": LoraSpec(rank=9, alpha=32, seed=1, train_unembed=False),
        "": LoraSpec(rank=8, alpha=32, seed=1, train_unembed=False),
    }
    for number, (expected, spec) in enumerate(specs.items()):
        of_spec = run.model_copy(update={"lora": spec})
        record = write_checkpoint(api, run.run_id, "sampler_weights", f"p{number}", run=of_spec)
        body = {
            "session_id": api.session(),
            "sampling_session_seq_id": number,
            "model_path": record.manifest.path,
        }
        reply = api.post("create_sampling_session", body)
        if expected:
            assert expected in refused(reply)
        else:
            ok(reply)


def test_sessions_of_runs_it_can_not_serve(vllm_api: Api) -> None:
    """At once, and not after the weights were written. A named one may be for another place."""
    api = vllm_api
    run_id = api.run()
    save = {"model_id": run_id, "seq_id": 1}
    message = refused(api.post("save_weights_for_sampler", save | {"sampling_session_seq_id": 0}))
    assert "train_unembed=False" in message
    ok(api.post("save_weights_for_sampler", save | {"seq_id": 2, "path": "mine"}))


def test_temperatures_that_vllm_would_change(vllm_api: Api) -> None:
    api = vllm_api
    sampler_id = base_sampler(api)
    for number, temperature in enumerate((0.001, 2.5)):
        body = sample_body(sampler_id, number, params={"temperature": temperature})
        assert "0 and 0.01 to 2.0" in refused(api.post("asample", body))
    ok(api.post("asample", sample_body(sampler_id, 3, params={"temperature": 0})))
