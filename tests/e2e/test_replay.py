"""Error replay through train_loop and single steps, against a real service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import Service
from tests.learning import replay as experiment
from tuft_components.kept_episodes import read_episodes
from tuft_components.replay.records import read_records
from tuft_components.start_run.step import STEP as START_RUN
from tuft_components.steps import load_step
from tuft_components.trajectories import read_trajectories
from tuft_components.work import Work

KEY = "tml-local-dev-key"
ITERATIONS = 4
SETTINGS: dict[str, Any] = {
    "groups": 4,
    "group_size": 2,
    "max_tokens": 2,
    "replay_ratio": 0.5,
    "replay_form": "hint",
    "max_staleness": 1,
    "iterations": ITERATIONS,
}
"""The tiny model never says the second word: every task fails."""


@pytest.fixture
def started(service: Service, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("TINKER_BASE_URL", service.url)
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    run = START_RUN.execute({"lora_rank": 4, "seed": 1}, {}, {})
    return {"run_id": run.run_id, "policy_before": run.policy}


def test_a_loop_replays_what_failed_before_its_policy(
    started: dict[str, str], tmp_path: Path
) -> None:
    work_uri = str(tmp_path / "work")
    params = {**SETTINGS, **started, "work_uri": work_uri}
    load_step("train_loop").execute(params, {}, {"history": str(tmp_path / "h.parquet")})
    records = {(r.step, r.iteration): r for r in Work(work_uri).records()}
    for iteration in range(ITERATIONS):
        episodes = read_trajectories(f"{work_uri}/trajectories/{iteration:06d}.parquet")
        firsts = {one.key[1]: one.transitions[0] for one in episodes}
        again = {group: t.task for group, t in firsts.items() if "replay" in t.task}
        known = max(0, iteration - 1)  # as max_staleness says
        assert set(again) == ({1, 3} if known else set())
        assert all(task["index"] < known * 4 for task in again.values())
        assert {firsts[g].prompt_text.split("\n")[0] for g in again} <= {
            "An earlier attempt at this task failed:"
        }
        assert firsts[0].task["index"] == iteration * 4
        rollout, feedback = records["rollout", iteration], records["feedback", iteration]
        assert rollout.metrics["replay_groups"] == len(again)
        assert rollout.metrics["replay_store"] == len(
            {o.key for o in read_records(work_uri, 0, known)}
        )
        assert feedback.metrics["tasks_failed"] == 4
        assert feedback.metrics["replayed"] == len(again)
    # A single step that runs again draws the same, and takes what the loop kept.
    last = ITERATIONS - 1
    known_params = {k: v for k, v in SETTINGS.items() if k not in ("max_staleness", "iterations")}
    rolled = load_step("rollout").execute(
        {
            **known_params,
            "policy": firsts[0].policy,
            "policy_version": last - 1,
            "iteration": last,
            "work_uri": work_uri,
        },
        {},
        {"trajectories": str(tmp_path / "t.parquet")},
    )
    assert rolled.metrics["groups_kept"] == 4
    assert read_episodes([rolled.uri]) == episodes


@pytest.mark.slow
def test_the_experiment_runs_and_resumes(
    started: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the tiny model, which learns nothing: what is run, and what is told of it."""
    del started  # its service
    for name, value in {"ITERATIONS": 2, "EVERY": 1, "EPISODES": 4, "RARE": 0.5}.items():
        monkeypatch.setattr(experiment, name, value)
    run = experiment.Run(tmp_path, "fresh", 1)
    assert run.result() is None
    run.execute()
    result = run.result()
    assert result is not None
    assert [point.updates for point in result.points] == [0, 1, 2]
    assert (result.replayed, result.points[-1].solved) == (2, 0)
    assert 3 <= result.tail_groups <= 13
    (tmp_path / "fresh-1" / "result.json").unlink()
    run.execute()  # reads everything, and plays nothing
    assert run.result() == result
