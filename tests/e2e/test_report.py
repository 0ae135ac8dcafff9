"""A report of a real training run: the steps leave what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.test_report import Page
from tests.e2e.service import Service
from tests.helpers.s3_server import S3Server
from tuft_components.steps import load_step


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_report_of_a_training_run(
    service: Service, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.make_bucket("report")
    env = {"TINKER_BASE_URL": service.url, "TINKER_API_KEY": "tml-local-dev-key"}
    for name, value in {**env, **s3_server.environment()}.items():
        monkeypatch.setenv(name, value)
    work = {"work_uri": "s3://report/run-1"}
    started = load_step("start_run").execute({**work, "name": "report", "lora_rank": 4}, {}, {})
    sampled = {**work, "max_tokens": 3, "reward": "tests.e2e.rewards:even_first_token"}
    evaluated = {**sampled, "episodes": 4}
    load_step("evaluate").execute({**evaluated, "policy": started.policy}, {}, {})
    looped = load_step("train_loop").execute(
        {
            **sampled,
            "run_id": started.run_id,
            "policy_before": started.policy,
            "iterations": 2,
            "groups": 2,
            "group_size": 4,
            "learning_rate": 1e-2,
        },
        {},
        {"history": str(tmp_path / "history.parquet")},
    )
    load_step("evaluate").execute({**evaluated, "policy": looped.policy, "iteration": 2}, {}, {})
    html = tmp_path / "report.html"
    outputs = load_step("report").execute({**work, "title": "Tiny"}, {}, {"html": str(html)})
    assert outputs.metrics["iterations"] == 2
    assert outputs.metrics["last_reward"] == looped.last_reward
    page = Page(html.read_text())
    shown = "".join(page.texts)
    assert [cells[0] for cells in page.cells[1:5]] == [
        "held-out",
        "iteration 1",
        "iteration 2",
        "held-out",
    ]
    for said in (
        "rollout after 0 updates, group 0, sample",
        "rollout after 1 updates, group 1, sample",
        "evaluate after 2 updates, group 3, sample 0: the environment's reward",
        "Second word.",
        "gradient norm",
        "KL of the sampled to the trained policy",
        started.run_id,
    ):
        assert said in shown
    judged = [text for text in page.texts if ": reward " in text and "rollout" in text]
    assert judged, "rewards of the batches are shown, not the environment's"
