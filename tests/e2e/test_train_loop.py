"""train_loop against a real service: it resumes, and its rollouts may be ahead of its updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tuft_sdk
from tests.e2e.rewards import even_first_token
from tests.e2e.service import Service
from tuft_components.start_run.step import STEP as START_RUN
from tuft_components.steps import load_step
from tuft_components.train_loop.history import Iteration, read_history
from tuft_components.train_loop.step import TrainLoopOutputs
from tuft_components.trajectories import Trajectory, read_trajectories
from tuft_components.work import Record, Work

KEY = "tml-local-dev-key"
TASK = {"groups": 2, "group_size": 4, "max_tokens": 2}
SETTINGS = {
    **TASK,
    "reward": "tests.e2e.rewards:even_first_token",
    "learning_rate": 1e-2,
    "checkpoint_name": "final",
}


@pytest.fixture
def started(service: Service, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A run, and its first policy."""
    monkeypatch.setenv("TINKER_BASE_URL", service.url)
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    run = START_RUN.execute({"lora_rank": 4, "seed": 1}, {}, {})
    return {"run_id": run.run_id, "policy_before": run.policy}


def _loop(folder: Path, params: dict[str, Any]) -> tuple[TrainLoopOutputs, list[Iteration]]:
    places = {"history": str(folder / "history.parquet")}
    outputs = load_step("train_loop").execute({**SETTINGS, **params}, {}, places)
    assert isinstance(outputs, TrainLoopOutputs)
    return outputs, read_history(outputs.history.uri)


def _records(work_uri: str) -> dict[tuple[str, int], Record]:
    return {(record.step, record.iteration): record for record in Work(work_uri).records()}


def _saved_by(service: Service, policy: str) -> str:
    """The step key in a policy's manifest."""
    path = policy.removeprefix("tinker://")
    manifest = json.loads((service.checkpoint_dir / "runs" / path / "manifest.json").read_text())
    return str(manifest["step_key"])


def test_a_loop_goes_on_where_one_ended(
    service: Service, started: dict[str, str], tmp_path: Path
) -> None:
    work_uri, run_id = str(tmp_path / "work"), started["run_id"]
    params = {**started, "work_uri": work_uri}
    first, rows = _loop(tmp_path, {**params, "iterations": 1})
    assert first.policy == tuft_sdk.sampler_path(run_id, "policy-000001")
    assert first.checkpoint == tuft_sdk.checkpoint_path(run_id, "final-000001")
    assert (first.iterations_done, first.last_reward) == (1, rows[0].mean_reward)
    before = _records(work_uri)
    assert before["feedback", 0].metrics["mean_reward"] == pytest.approx(rows[0].mean_reward)
    # Killed after the ledger had the update and before the report had: its record is missing.
    (tmp_path / "work" / "records" / "000000-update-0000.json").unlink()

    second, rows = _loop(tmp_path, {**params, "iterations": 2})
    assert [row.resumed for row in rows] == [True, False]
    assert [row.policy for row in rows] == [first.policy, second.policy]
    assert second.checkpoint == tuft_sdk.checkpoint_path(run_id, "final-000002")
    assert (second.iterations_done, second.metrics["resumed_iterations"]) == (2, 1.0)
    after = _records(work_uri)
    assert after["rollout", 0] == before["rollout", 0]  # played once
    assert after["update", 0].metrics == before["update", 0].metrics
    assert after["update", 0].values["policy"] == first.policy
    assert [_saved_by(service, row.policy) for row in rows] == ["update/0", "update/1"]
    # A split step of the same pipeline takes what the loop kept.
    policy, places = first.policy, {"trajectories": str(tmp_path / "t.parquet")}
    split = {**TASK, "policy": policy, "iteration": 1, "work_uri": work_uri}
    assert load_step("rollout").execute(split, {}, places).metrics["groups_kept"] == 2.0


def test_a_loop_ends_at_the_reward(started: dict[str, str], tmp_path: Path) -> None:
    params = {**started, "iterations": 5, "stop_at_reward": -1.0}
    for resumed in (False, True):
        outputs, rows = _loop(tmp_path, params)
        assert [row.resumed for row in rows] == [resumed]
        assert outputs.iterations_done == 1
        assert outputs.checkpoint.endswith("/final-000001")
        assert outputs.metrics["reached"] == 1.0


def test_rollouts_run_ahead_of_updates(
    service: Service, started: dict[str, str], tmp_path: Path
) -> None:
    work_uri = str(tmp_path / "work")
    _, rows = _loop(
        tmp_path, {**started, "iterations": 3, "max_staleness": 1, "work_uri": work_uri}
    )
    assert [row.staleness for row in rows] == [0, 1, 1]
    # One attachment does all updates, and each is signed by its own key.
    keys = [_saved_by(service, row.policy) for row in rows]
    assert keys == ["update/0", "update/1", "update/2"]
    for iteration, version in enumerate([0, 0, 1]):
        played = read_trajectories(f"{work_uri}/trajectories/{iteration:06d}.parquet")
        first = played[0].transitions[0]
        assert (first.iteration, first.policy_version) == (iteration, version)
        assert first.policy.endswith(f"policy-{version:06d}")
    records = _records(work_uri)
    for iteration in (1, 2):
        rollout, update = records["rollout", iteration], records["update", iteration - 1]
        assert rollout.finished_at - rollout.seconds < update.finished_at


def test_a_rollout_that_fails_ends_the_loop(started: dict[str, str], tmp_path: Path) -> None:
    policy = tuft_sdk.sampler_path(started["run_id"], "no-such")
    with pytest.raises(tuft_sdk.SdkError, match="no-such"):
        _loop(tmp_path, {**started, "policy_before": policy, "max_staleness": 1})


def takes_the_run(trajectory: Trajectory, run_id: str) -> float:
    """A reward during which another process becomes the run's writer, in iteration 1."""
    if trajectory.key == (1, 0, 0):
        with tuft_sdk.connect() as client:
            client.attach(run_id).close()
    return even_first_token(trajectory)


def test_a_loop_does_not_take_the_run_back(started: dict[str, str], tmp_path: Path) -> None:
    """Of two copies the one that attached last goes on; two that take turns would waste both."""
    params = {**started, "iterations": 2, "work_uri": str(tmp_path / "work")}
    thief = {
        "reward": "tests.e2e.test_train_loop:takes_the_run",
        "reward_args": {"run_id": started["run_id"]},
    }
    with pytest.raises(tuft_sdk.LeaseLost):
        _loop(tmp_path, {**params, **thief})
    _, rows = _loop(tmp_path, params)
    assert [row.resumed for row in rows] == [True, False]
