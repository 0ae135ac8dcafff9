"""The WorkflowTemplates as they are committed, run by the interpreter against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.argo.interpreter import Argo, WorkflowResult
from tests.argo.pods import Fault, Pods
from tests.e2e.service import Service, running, write_config
from tests.helpers.s3_server import S3Server
from tuft_components.artifacts import list_uris
from tuft_components.batches import read_batch
from tuft_components.profile import CLIENT_SECRET, STORE_SECRET, Profile
from tuft_components.steps import load_step
from tuft_pipelines.argo import manifests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
KEY = "tml-local-dev-key"
NOWHERE = "http://127.0.0.1:9"
SMALL = {
    "lora_rank": "4",
    "groups": "4",
    "group_size": "2",
    "max_tokens": "2",
    "eval_episodes": "4",
    "learning_rate": "0.01",
    # A random model is never right; by this reward it is half of the time.
    "reward": "tests.e2e.rewards:even_first_token",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("argo-service")
    config = write_config(folder, tiny_model_folder, trainer={"max_lora_rank": 16})
    with running(folder, config) as service:
        yield service


@pytest.fixture
def secrets(
    service: Service, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, str]]:
    s3_server.make_bucket("argo")
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)  # for this process, which reads what the pods wrote
    return {
        CLIENT_SECRET: {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": KEY},
        STORE_SECRET: s3_server.environment(),
    }


@pytest.fixture(scope="module")
def argo() -> Argo:
    return Argo(list(manifests(Profile()).values()))


def _parameters(folder: Path, **values: str) -> dict[str, str]:
    name = folder.name.replace("_", "-")
    return {**SMALL, "name": name, "work_root": "s3://argo/runs", **values}


def _of(done: WorkflowResult, template: str) -> list[int]:
    """Exit codes of the pods of a template, -1 for a lost one."""
    return [pod.exit_code for pod in done.pods if pod.template == template]


def test_split_grpo_survives_failures_stops_early_and_goes_on_under_its_name(
    argo: Argo, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    parameters = _parameters(
        tmp_path, iterations="2", iterations_a_level="1", shards="2", checkpoint_every="2"
    )
    work = f"s3://argo/runs/{parameters['name']}"
    kept = f"{work}/episodes/rollout-000001/"
    faults = [
        Fault("feedback", env={"AWS_ENDPOINT_URL": NOWHERE}),  # it ends with exit code 75
        Fault("rollout", nth=3, kill_when=lambda: bool(list_uris(kept))),
        Fault("update", nth=2, lose=True),
    ]
    done = argo.submit("tuft-grpo-split", parameters, Pods(tmp_path / "1", secrets, faults))
    assert done.phase == "Succeeded", done.messages()
    assert all(fault.happened for fault in faults)
    assert _of(done, "feedback") == [75, 0, 0]
    assert sorted(_of(done, "rollout")) == [0, 0, 0, 0, 137]
    assert _of(done, "update") == [0, -1, 0]
    assert done.main.outputs["iteration"] == "2"
    assert done.main.outputs["policy"].endswith("/sampler_weights/policy-000002")
    for iteration in range(2):
        batch = read_batch(f"{work}/batches/{iteration}.parquet")
        keys = {(iteration, group, sample) for group in range(4) for sample in range(2)}
        assert {row.key[:3] for row in batch} == keys
        assert {row.policy.rpartition("/")[2] for row in batch} == {f"policy-{iteration:06d}"}
    saved = [pod.argument("checkpoint_name") for pod in done.of("update")]
    assert saved == ["", "checkpoint-2", "checkpoint-2"]
    (report,) = done.of("report")
    assert f"{parameters['name']}: Succeeded" in report.artifacts["html"].read_text()
    assert json.loads(report.artifacts["metrics"].read_text())["iterations"] == 2

    # The same name again, with a goal that the first batch reached: nothing is played or trained
    # again, and the recursion ends there.
    again = argo.submit(
        "tuft-grpo-split", {**parameters, "stop_at_reward": "-1"}, Pods(tmp_path / "2", secrets)
    )
    assert again.phase == "Succeeded", again.messages()
    assert again.main.outputs["iteration"] == "1"
    assert again.main.outputs["reward"] == done.of("feedback")[1].outputs["mean_reward"]
    before = done.main.outputs["policy"].replace("policy-000002", "policy-000001")
    assert again.main.outputs["policy"] == before
    assert _of(again, "update") == [0]


def test_segments_of_a_train_loop_and_what_a_wrong_argument_says(
    argo: Argo, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    parameters = _parameters(tmp_path, iterations="3", iterations_a_segment="2")
    done = argo.submit("tuft-grpo", parameters, Pods(tmp_path / "1", secrets))
    assert done.phase == "Succeeded", done.messages()
    loops = done.of("train-loop")
    assert [pod.argument("iterations") for pod in loops] == ["2", "1"]
    assert [pod.outputs["iterations_done"] for pod in loops] == ["2", "3"]
    assert done.main.outputs["policy"].endswith("policy-000003")
    assert done.main.outputs["checkpoint"].endswith("/weights/segment-000003")

    wrong = argo.submit(
        "tuft-grpo", {**parameters, "reward": "no.such:thing"}, Pods(tmp_path / "2", secrets)
    )
    assert wrong.phase == "Failed"
    (preflight,) = wrong.of("preflight")
    assert preflight.exit_code == 78
    assert "no.such" in preflight.message
    assert {pod.template for pod in wrong.pods} == {"preflight", "report"}


def test_a_policy_that_is_good_enough_is_published_and_another_is_not(
    argo: Argo,
    secrets: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in secrets[CLIENT_SECRET].items():
        monkeypatch.setenv(name, value)
    policy = load_step("start_run").execute({"lora_rank": 4}, {}, {}).policy
    parameters = {
        **{name: SMALL[name] for name in ("reward", "eval_episodes", "max_tokens")},
        "name": "publish",
        "work_root": "s3://argo/runs",
        "policy": policy,
        "target_uri": "s3://argo/models",
        "model_name": "tiny-x",
    }
    good = argo.submit(
        "tuft-evaluate-and-promote", {**parameters, "threshold": "0"}, Pods(tmp_path / "1", secrets)
    )
    assert good.phase == "Succeeded", good.messages()
    assert good.main.outputs["promoted"] == "true"
    uri = good.main.outputs["uri"]
    assert uri.startswith("s3://argo/models/tiny-x/")
    assert {found.rpartition("/")[2] for found in list_uris(f"{uri}/")} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    (promote,) = good.of("promote")
    assert "tiny-x" in promote.artifacts["card"].read_text()

    bad = argo.submit(
        "tuft-evaluate-and-promote",
        {**parameters, "model_name": "tiny-y", "threshold": "2"},
        Pods(tmp_path / "2", secrets),
    )
    assert bad.phase == "Succeeded", bad.messages()
    assert (bad.main.outputs["promoted"], bad.main.outputs["uri"]) == ("false", "")
    assert list_uris("s3://argo/models/tiny-y/") == []
