"""The reward `judge` through the feedback step, with the models of a real service."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.samples import transition
from tests.e2e.service import Service
from tuft_components.batches import read_batch
from tuft_components.feedback.step import STEP
from tuft_components.trajectories import write_trajectories

# The tiny model sees 256 tokens, of which each is little more than a letter.
ARGS = {"rubric": "r", "longest_text": 20, "max_tokens": 4}


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
    params = {"reward": "judge", "reward_args": {**ARGS, "neutral": 3, "max_nonsense": 1}}
    outputs = STEP.execute(params, {"trajectories": trajectories}, {"batch": batch})
    assert "the judge gave no score from 0 to 10 for" in caplog.text
    assert outputs.mean_reward == pytest.approx(0.3, abs=0.5)
    assert 0.3 in [pytest.approx(row.reward) for row in read_batch(batch)]
