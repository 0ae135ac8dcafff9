"""The reward `judge` through the feedback step, with the models of a real service."""

from __future__ import annotations

from pathlib import Path

import pytest

import tuft_sdk
from tests.components.samples import transition
from tests.e2e.service import Service
from tests.learning.judge_server import judge_server
from tuft_components.batches import read_batch
from tuft_components.feedback.step import STEP
from tuft_components.judges.evidence import read_judgements
from tuft_components.promote.adapters import WEIGHTS
from tuft_components.start_run.step import STEP as START_RUN
from tuft_components.steps import load_step
from tuft_components.trajectories import write_trajectories

# The tiny model sees 256 tokens, of which each is little more than a letter.
ARGS = {"rubric": "r", "longest_text": 20, "max_tokens": 4, "max_nonsense": 1}


@pytest.fixture
def trajectories(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("TINKER_BASE_URL", service.url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-local-dev-key")
    uri = str(tmp_path / "t.parquet")
    episodes = [transition(sample=n, completion_text=text, info={}) for n, text in enumerate("xy")]
    write_trajectories(uri, episodes, {})
    return uri


def test_a_random_model_judges_neutrally(
    trajectories: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batch = str(tmp_path / "b.parquet")
    params = {"reward": "judge", "reward_args": {**ARGS, "neutral": 3}, "work_uri": str(tmp_path)}
    outputs = STEP.execute(params, {"trajectories": trajectories}, {"batch": batch})
    assert "the judge gave no verdict to" in caplog.text
    assert outputs.mean_reward == pytest.approx(0.3, abs=0.5)
    assert 0.3 in [pytest.approx(row.reward) for row in read_batch(batch)]
    again = STEP.execute(params, {"trajectories": trajectories}, {"batch": batch})
    assert again.metrics["judge_questions"] == 0
    assert again.metrics["judge_cached"] == outputs.metrics["judge_questions"] > 0


def test_pairs_and_a_question_that_is_too_long(
    trajectories: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"reward": "judge_pairwise", "reward_args": ARGS, "work_uri": str(tmp_path)}
    params["reward_args"] = {**ARGS, "rubric": "long " * 300}
    batch = str(tmp_path / "b.parquet")
    outputs = STEP.execute(params, {"trajectories": trajectories}, {"batch": batch})
    assert [row.reward for row in read_batch(batch)] == [0.5, 0.5]
    assert outputs.metrics["judge_without_verdict"] == 2
    (file,) = tmp_path.glob("judgements/*.parquet")
    assert all("tokens; 252 fit the judge" in row.error for row in read_judgements(str(file)))


@pytest.mark.slow
@pytest.mark.parametrize(("judge", "same"), [("yes", True), ("right-90", False)])
@pytest.mark.usefixtures("trajectories")  # for the variables that name the service
def test_a_judge_that_always_says_yes_changes_nothing(
    tmp_path: Path, judge: str, same: bool
) -> None:
    """To the bit. The other judge finds differences, if only by its errors: no answer is right."""
    run = START_RUN.execute({"lora_rank": 4, "seed": 1}, {}, {})
    with judge_server() as endpoint:
        trained = load_step("train_loop").execute(
            {
                "run_id": run.run_id,
                "policy_before": run.policy,
                "iterations": 2,
                "groups": 4,
                "group_size": 8,
                "max_tokens": 2,
                "reward": "judge",
                "reward_args": {"endpoint": endpoint, "model": judge},
            },
            {},
            {"history": str(tmp_path / "history.parquet")},
        )
    with tuft_sdk.connect() as client:
        before, after = (
            client.checkpoint(policy).files[WEIGHTS].sha256
            for policy in (run.policy, trained.policy)
        )
    assert (before == after) == same
    assert trained.last_reward == 1.0 if same else trained.last_reward < 0.5
