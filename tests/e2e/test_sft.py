"""The step `sft` against a real service: what it learns, and that no kill changes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from safetensors.numpy import load_file

from tests.e2e.service import Service
from tests.helpers.step_process import Fault, Outcome, StepProcess
from tuft_components.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "tml-local-dev-key"
KILLED = -9
PATIENCE_S = 300
WORDS = ["cat", "dog", "sun", "ice", "tree", "house", "fox", "one", "two", "three"]
STEPS = 9  # of 18 rows that are trained on, in batches of 4, two epochs, at most so many


@dataclass
class Tuning:
    """Starts `sft` on runs that all have the same weights at first."""

    service: Service
    client: tinker.ServiceClient
    folder: Path

    def new_run(self) -> str:
        run = self.client.create_lora_training_client("tiny", rank=4, seed=1).result(60)
        return str(run.model_id)

    def dataset(self) -> Path:
        """Twenty rows, every third of them a conversation."""
        file = self.folder / "train.jsonl"
        lines = []
        for n in range(20):
            first, second = WORDS[n % 10], WORDS[(n * 3 + 1) % 10]
            row: dict[str, Any] = {"prompt": f"{first} {second} ->", "completion": f" {second}"}
            if n % 3 == 0:
                row = {
                    "messages": [
                        {"role": "user", "content": row["prompt"]},
                        {"role": "assistant", "content": row["completion"]},
                        {"role": "user", "content": "again"},
                        {"role": "assistant", "content": row["completion"]},
                    ]
                }
            lines.append(json.dumps(row))
        file.write_text("\n".join(lines))
        return file

    def start(self, run_id: str, fault: Fault | None = None, **more: Any) -> StepProcess:
        params = {
            "run_id": run_id,
            "dataset_uri": self.dataset(),
            "epochs": 2,
            "batch_size": 4,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "eval_rows": 2,
            "eval_every": 4,
            **more,
        }
        texts = [text for name, value in params.items() for text in ("--param", f"{name}={value}")]
        env = {"TINKER_BASE_URL": self.service.url, "TINKER_API_KEY": KEY}
        return StepProcess(self.folder, ["sft", *texts], env, fault)

    def weights(self, run_id: str, name: str = "sft") -> dict[str, Any]:
        """Of the checkpoint, adapter and optimizer; with its manifest's step and step key."""
        folder = self.service.checkpoint_dir / "runs" / run_id / "weights" / name
        manifest = json.loads((folder / "manifest.json").read_text())
        found: dict[str, Any] = {"step": manifest["step"], "step_key": manifest["step_key"]}
        for file in manifest["files"]:
            if file.endswith(".safetensors"):
                found |= load_file(folder / manifest["folder"] / file)
        return found


def outputs_of(run_id: str, outcome: Outcome) -> Any:
    assert outcome.code == ExitCode.OK, (outcome.error, outcome.requests)
    return json.loads(json.dumps(outcome.outputs).replace(run_id, "RUN"))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def tuning(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuning]:
    folder: Path = tmp_path_factory.mktemp("sft")
    with tinker.ServiceClient(base_url=service.url, api_key=KEY) as client:
        yield Tuning(service, client, folder)


@pytest.fixture(scope="module")
def undisturbed(tuning: Tuning) -> tuple[Any, dict[str, Any]]:
    """Outputs and weights of a fine-tuning that nothing happens to."""
    run_id = tuning.new_run()
    outputs = outputs_of(run_id, tuning.start(run_id).wait(PATIENCE_S))
    return outputs, tuning.weights(run_id)


def test_it_learns(tuning: Tuning, undisturbed: tuple[Any, dict[str, Any]]) -> None:
    outputs, weights = undisturbed
    metrics = outputs["metrics"]
    assert outputs["policy"] == "tinker://RUN/sampler_weights/sft"
    assert outputs["checkpoint"] == "tinker://RUN/weights/sft"
    assert (weights["step"], weights["step_key"]) == (STEPS, "sft/final")
    assert (metrics["steps"], metrics["rows"], metrics["rows_held_out"]) == (STEPS, 20, 2)
    assert metrics["loss"] < 0.7 * metrics["first_loss"]
    assert metrics["eval_loss"] == metrics[f"eval_loss_{STEPS}"] < metrics["eval_loss_0"]
    assert {"eval_loss_4", "eval_loss_8"} < metrics.keys()


def test_the_loss_is_that_of_the_trained_tokens(tuning: Tuning) -> None:
    """The same by hand, through the SDK: one row, prompt masked, sum over the completion."""
    run_id = tuning.new_run()
    row = tuning.folder / "one.jsonl"
    row.write_text(json.dumps({"prompt": "cat dog ->", "completion": " dog"}))
    found = {}
    for reduction in ("mean", "sum"):
        outcome = tuning.start(
            run_id,
            dataset_uri=row,
            max_steps=1,
            eval_rows=0,
            eval_every=0,
            learning_rate=0,
            reduction=reduction,
            step_key=reduction,
        ).wait(PATIENCE_S)
        found[reduction] = outputs_of(run_id, outcome)["metrics"]["loss"]
    training = tuning.client.create_lora_training_client("tiny", rank=4, seed=1).result(60)
    tokenizer = _tokenizer(tuning)
    prompt = tokenizer.encode("cat dog ->")
    tokens = [*prompt, *tokenizer.encode(" dog"), 0]
    sampler = training.save_weights_and_get_sampling_client().result()
    logprobs = sampler.compute_logprobs(tinker.ModelInput.from_ints(tokens)).result()
    said = [float(value or 0.0) for value in logprobs[len(prompt) :]]
    np.testing.assert_allclose(found["mean"], -np.mean(said), rtol=1e-4)
    np.testing.assert_allclose(found["sum"], found["mean"], rtol=1e-6)


def _tokenizer(tuning: Tuning) -> Any:
    import tuft_sdk

    with tuft_sdk.connect(tuning.service.url, KEY) as client:
        return client.tokenizer("tiny")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT tuft/steps/plan", "after", 4),
        Fault("POST forward_backward", "after", 5),
        Fault("POST optim_step", "before", 4),
        Fault("POST save_weights", "after"),
    ],
    ids=str,
)
def test_killed_and_run_again_it_ends_with_the_same_weights(
    fault: Fault, tuning: Tuning, undisturbed: tuple[Any, dict[str, Any]]
) -> None:
    outputs, weights = undisturbed
    run_id = tuning.new_run()
    assert tuning.start(run_id, fault).wait(PATIENCE_S).code == KILLED
    assert outputs_of(run_id, tuning.start(run_id).wait(PATIENCE_S)) == outputs
    assert_same(tuning.weights(run_id), weights)
    # Once more: the same, and the run is taken from nobody.
    again = tuning.start(run_id).wait(PATIENCE_S)
    assert outputs_of(run_id, again) == outputs
    assert not [name for name in again.requests if "attach" in name]


def test_killed_three_times_at_any_moment(
    tuning: Tuning, undisturbed: tuple[Any, dict[str, Any]]
) -> None:
    outputs, weights = undisturbed
    run_id = tuning.new_run()
    for nth in (2, 2, 2):
        assert (
            tuning.start(run_id, Fault("POST optim_step", "after", nth)).wait(PATIENCE_S).code
            == KILLED
        )
    assert outputs_of(run_id, tuning.start(run_id).wait(PATIENCE_S)) == outputs
    assert_same(tuning.weights(run_id), weights)


def test_another_fine_tuning_is_not_taken_for_it(tuning: Tuning) -> None:
    run_id = tuning.new_run()
    assert tuning.start(run_id, max_steps=1).wait(PATIENCE_S).code == ExitCode.OK
    other = tuning.start(run_id, max_steps=1, learning_rate=1e-3).wait(PATIENCE_S)
    assert other.code == ExitCode.BAD_CONFIGURATION
    assert "stands for another fine-tuning, with other learning_rate." in other.error
    taken = tuning.start(run_id, max_steps=1, step_key="second", policy_name="sft").wait(PATIENCE_S)
    assert taken.code == ExitCode.BAD_CONFIGURATION
    assert "exists already: give policy_name" in taken.error
    assert tuning.start(run_id, max_steps=1, step_key="second").wait(PATIENCE_S).code == ExitCode.OK
    assert tuning.weights(run_id, "second")["step"] == 2
    longer = tuning.start(run_id, max_length=10_000).wait(PATIENCE_S)
    assert longer.code == ExitCode.BAD_CONFIGURATION
    assert "is served with 256 tokens" in longer.error
