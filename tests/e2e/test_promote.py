"""The step `promote` against a real service: what was trained is what others load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
import torch
from peft import PeftModel
from tinker import types
from transformers import AutoModelForCausalLM

from tests.e2e.service import Service
from tests.helpers.step_process import Fault, Outcome, StepProcess
from tuft_components.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "tml-local-dev-key"
TOKENS = [11, 42, 37, 99, 7, 300]


@pytest.fixture(scope="module")
def saved(service: Service) -> tuple[list[str], Any]:
    """A policy and a checkpoint of the same trained weights, and the policy's logprobs."""
    with tinker.ServiceClient(base_url=service.url, api_key=KEY) as client:
        training = client.create_lora_training_client("tiny", rank=4, seed=1).result()
        datum = types.Datum(
            model_input=types.ModelInput.from_ints(TOKENS[:-1]),
            loss_fn_inputs={"target_tokens": types.TensorData(TOKENS[1:], "int64", [5])},
        )
        for _ in range(3):
            forward = training.forward_backward([datum], "cross_entropy")
            step = training.optim_step(types.AdamParams(learning_rate=1e-2))
            forward.result()
            step.result()
        checkpoint = training.save_state("c").result().path
        policy = training.save_weights_for_sampler("p").result().path
        sampler = client.create_sampling_client(model_path=policy).result()
        said = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
        return [str(policy), str(checkpoint)], np.asarray(said[1:], dtype=np.float32)


def promote(
    service: Service, folder: Path, policy: str, fault: Fault | None = None, **more: Any
) -> Outcome:
    params = {
        "policy": policy,
        "target_uri": folder / "models",
        "model_name": "tiny-words",
        "metric": 0.9,
        "threshold": 0.5,
        **more,
    }
    texts = [text for name, value in params.items() for text in ("--param", f"{name}={value}")]
    places = [
        text for name in ("model", "card") for text in ("--output", f"{name}={folder}/{name}")
    ]
    env = {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY}
    return StepProcess(folder, ["promote", *texts, *places], env, fault).wait()


def logprobs(model: Any) -> Any:
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, :-1]
    return torch.log_softmax(logits, -1)[torch.arange(5), torch.tensor(TOKENS[1:])].numpy()


def test_what_is_published_says_what_the_policy_says(
    service: Service, saved: tuple[list[str], Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    (policy, checkpoint), said = saved
    merge: dict[str, Any] = {"merge": True, "base_model_uri": tiny_model_folder}
    no_merge: dict[str, Any] = {}
    for path, more in ((policy, merge), (checkpoint, no_merge)):
        outcome = promote(service, tmp_path, path, **more)
        assert outcome.code == ExitCode.OK, outcome.error
        assert outcome.outputs["promoted"] is True
        folder = Path(outcome.outputs["uri"])
        base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        assert np.abs(logprobs(base) - said).max() > 0.1
        loaded = PeftModel.from_pretrained(base, str(folder))
        np.testing.assert_allclose(logprobs(loaded), said, rtol=1e-4, atol=1e-4)
        assert f"`{path}`" in (folder / "README.md").read_text()
        if more:
            whole = AutoModelForCausalLM.from_pretrained(folder / "merged")
            np.testing.assert_allclose(logprobs(whole), said, rtol=1e-4, atol=1e-4)


def test_killed_and_run_again(
    service: Service, saved: tuple[list[str], Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """One version, and the same once more; another policy is not published over it."""
    (policy, checkpoint), _ = saved
    more: dict[str, Any] = {"version": "1", "merge": True, "base_model_uri": tiny_model_folder}
    fault = Fault(
        "GET tuft/checkpoints/ID/sampler_weights/p/files/adapter_model.safetensors", "after"
    )
    assert promote(service, tmp_path, policy, fault, **more).code == -9
    assert not list((tmp_path / "models").rglob("manifest.json"))
    outputs = [promote(service, tmp_path, policy, **more).outputs for _ in range(2)]
    assert outputs[0] == outputs[1]
    manifest = json.loads(Path(outputs[0]["uri"], "manifest.json").read_text())
    assert manifest == json.loads((tmp_path / "model").read_text())
    other = promote(service, tmp_path, checkpoint, **more)
    assert other.code == ExitCode.BAD_DATA
    assert "published already, and with another content" in other.error


def test_what_is_not_there(service: Service, saved: tuple[list[str], Any], tmp_path: Path) -> None:
    (policy, _), _ = saved
    absent = promote(service, tmp_path, policy + "x")
    assert (absent.code, "no checkpoint" in absent.error) == (ExitCode.BAD_DATA, True)
    wrong = promote(service, tmp_path, "tiny")
    assert wrong.code == ExitCode.BAD_CONFIGURATION
    assert "must be tinker://" in wrong.error
    below = promote(service, tmp_path, policy, metric=0.4)
    assert (below.code, below.outputs["promoted"]) == (ExitCode.OK, False)
    assert below.requests == []
