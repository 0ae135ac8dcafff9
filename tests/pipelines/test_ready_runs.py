"""Every ready pipeline from beginning to end with `tuft-pipelines run`: kfp.local, real service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.service import Service
from tests.pipelines.conftest import KEY
from tuft_components.batches import read_batch
from tuft_components.work import Work
from tuft_pipelines.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REWARD = "tests.e2e.rewards:even_first_token"
SMALL = {"groups": 2, "group_size": 4, "max_tokens": 2, "eval_episodes": 4, "learning_rate": 1e-2}


@dataclass
class Run:
    """What a pipeline run left behind."""

    folder: Path
    summary: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return {task["name"]: task for task in self.summary["tasks"]}

    def work(self) -> Work:
        return Work(str(self.folder / "work" / self.summary["arguments"]["name"]))


def run(pipeline: str, folder: Path, *build: str, **params: Any) -> Run:
    """Of small size; None takes a parameter away that the pipeline has not."""
    arguments = ["run", pipeline, "--output", str(folder)]
    for name, value in {**SMALL, **params}.items():
        if value is not None:
            arguments += ["--param", f"{name}={value}"]
    for choice in build:
        arguments += ["--build", choice]
    assert main(arguments) == 0
    return Run(folder, json.loads((folder / "summary.json").read_text()))


def metadata(task: dict[str, Any], artifact: str) -> dict[str, Any]:
    found: dict[str, Any] = task["artifacts"][artifact]["metadata"]
    return found


def is_reported(ended: Run) -> None:
    """The last task's page is about this run."""
    page = Path(ended.tasks["report"]["artifacts"]["html"]["uri"]).read_text()
    assert ended.summary["arguments"]["name"] in page
    assert "<html" in page


@pytest.fixture(scope="module")
def split(pipeline_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """grpo_split, two iterations, in which rollouts may be one update behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", pipeline_service.url)
        patch.setenv("TINKER_API_KEY", KEY)
        choices = ("iterations=2", "shards=2", "max_staleness=1")
        return run("grpo_split", tmp_path_factory.mktemp("split"), *choices, reward=REWARD)


def test_grpo_in_split_steps(split: Run, pipeline_service: Service) -> None:
    run_id = split.tasks["start run"]["parameters"]["run_id"]
    for number, staleness in ((1, 0.0), (2, 1.0)):
        judged, updated = split.tasks[f"feedback {number}"], split.tasks[f"update {number}"]
        assert metadata(judged, "batch")["schema"] == "tuft.batch/1"
        rows = read_batch(judged["artifacts"]["batch"]["uri"])
        assert sorted({row.group_id for row in rows}) == [0, 1]
        assert len({row.key[:3] for row in rows}) == 8
        assert {row.policy_version for row in rows} == {0}
        assert metadata(updated, "metrics")["staleness"] == staleness
        policy = f"tinker://{run_id}/sampler_weights/policy-{number:06d}"
        assert updated["parameters"]["policy"] == policy
    trajectories = split.tasks["rollout 1, 1 of 2"]["artifacts"]["trajectories"]
    assert trajectories["metadata"]["schema"] == "tuft.trajectories/3"
    assert (
        split.tasks["update 2"]["parameters"]["checkpoint"]
        == f"tinker://{run_id}/weights/checkpoint-000002"
    )
    manifest = (
        pipeline_service.checkpoint_dir
        / "runs"
        / run_id
        / "weights/checkpoint-000002/manifest.json"
    )
    assert manifest.is_file()
    records = [(record.step, record.iteration) for record in split.work().records()]
    assert ("update", 1) in records
    assert records.count(("rollout", 1)) == 2
    is_reported(split)


def test_a_run_that_has_ended_does_nothing_again(
    split: Run, service_env: dict[str, str], tmp_path: Path
) -> None:
    name, root = split.summary["arguments"]["name"], split.summary["arguments"]["work_root"]
    choices = ("iterations=2", "shards=2", "max_staleness=1")
    again = run("grpo_split", tmp_path, *choices, reward=REWARD, name=name, work_root=root)
    for task in ("start run", "update 1", "update 2"):
        assert again.tasks[task]["parameters"] == split.tasks[task]["parameters"], task
    for task in ("rollout 1, 1 of 2", "rollout 2, 2 of 2"):
        assert metadata(again.tasks[task], "metrics")["groups_kept"] == 1.0


def test_stored_episodes_are_judged_again_and_trained_on(
    split: Run, service_env: dict[str, str], tmp_path: Path
) -> None:
    uris = [split.tasks[f"rollout 2, {shard} of 2"]["parameters"]["uri"] for shard in (1, 2)]
    ended = run(
        "rescore_and_update_minimal",
        tmp_path,
        name="again",
        run_id=split.tasks["start run"]["parameters"]["run_id"],
        iteration=2,
        trajectories_uris=json.dumps(uris),
        reward="exact_match",
        **dict.fromkeys(("groups", "group_size", "max_tokens", "eval_episodes")),
    )
    scored = ended.tasks["rescore"]
    assert metadata(scored, "metrics")["episodes"] == 8.0
    assert "old_mean_reward" in metadata(scored, "metrics")
    assert ended.tasks["update"]["parameters"]["policy"].endswith("policy-000003")
    is_reported(ended)


def test_grpo_in_segments(service_env: dict[str, str], tmp_path: Path) -> None:
    ended = run("grpo", tmp_path, "segments=2", reward=REWARD, iterations=2, max_staleness=1)
    first, second = ended.tasks["train 1"], ended.tasks["train 2"]
    assert first["parameters"]["iterations_done"] == 2
    assert second["parameters"]["iterations_done"] == 4
    assert metadata(second, "history")["schema"] == "tuft.history/1"
    assert pq.read_table(second["artifacts"]["history"]["uri"]).num_rows == 2
    assert "/weights/segment-2" in second["parameters"]["checkpoint"]
    assert metadata(ended.tasks["evaluate after 2"], "metrics")["episodes"] == 4.0
    is_reported(ended)


def test_segments_after_the_reward_is_reached_do_nothing(
    service_env: dict[str, str], tmp_path: Path
) -> None:
    ended = run("grpo", tmp_path, "segments=2", reward=REWARD, iterations=3, stop_at_reward=0.0)
    first, second = ended.tasks["train 1"], ended.tasks["train 2"]
    assert first["parameters"]["iterations_done"] == 1
    assert second["parameters"] == first["parameters"]
    # The same policy was evaluated before: its episodes are there.
    assert metadata(ended.tasks["evaluate after 2"], "metrics")["episodes_kept"] == 4.0


@pytest.mark.parametrize("pipeline", ["grpo_judge_minimal", "grpo_split_judge_minimal"])
def test_a_judge_rewards(pipeline: str, service_env: dict[str, str], tmp_path: Path) -> None:
    # A random model judges: what it says holds no score, which is neutral as often as we let it.
    # The question must fit into the tiny model's 256 tokens.
    judge = {"rubric": "r", "longest_text": 20, "max_tokens": 4, "tries": 1, "max_nonsense": 1.0}
    split_steps = "split" in pipeline
    ended = run(
        pipeline,
        tmp_path,
        "iterations=1" if split_steps else "segments=1",
        reward_args=json.dumps(judge),
        **({} if split_steps else {"iterations": 1}),
        **dict.fromkeys(("groups", "group_size", "max_tokens", "eval_episodes")),
    )
    judged = ended.tasks["evaluate after" if split_steps else "evaluate after 1"]
    assert 0.0 <= judged["parameters"]["mean_reward"] <= 1.0
    assert ended.summary["arguments"]["reward_args"] == json.dumps(judge)
    is_reported(ended)


def test_sft_then_rl(service_env: dict[str, str], tmp_path: Path) -> None:
    examples = tmp_path / "examples.jsonl"
    rows = [{"prompt": f"Say {word}.", "completion": f" {word}"} for word in ("cat", "dog")] * 4
    examples.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    ended = run(
        "sft_then_rl",
        tmp_path / "out",
        "segments=1",
        reward=REWARD,
        dataset_uri=examples,
        sft_epochs=2,
        sft_batch_size=4,
        iterations=1,
    )
    tuned = ended.tasks["fine-tune"]
    assert tuned["parameters"]["policy"].endswith("/sampler_weights/sft")
    assert ended.tasks["train 1"]["parameters"]["iterations_done"] == 1
    run_id = ended.tasks["start run"]["parameters"]["run_id"]
    assert run_id in ended.tasks["train 1"]["parameters"]["policy"]
    is_reported(ended)


@pytest.mark.parametrize(("threshold", "promoted"), [(0.0, True), (2.0, False)])
def test_a_policy_is_promoted_if_it_is_good_enough(
    threshold: float,
    promoted: bool,
    split: Run,
    service_env: dict[str, str],
    tmp_path: Path,
) -> None:
    ended = run(
        "evaluate_and_promote",
        tmp_path,
        name="gate",
        policy=split.summary["outputs"]["policy"],
        target_uri=tmp_path / "models",
        model_name="words",
        version="1",
        reward=REWARD,
        threshold=threshold,
        **dict.fromkeys(("groups", "group_size", "learning_rate")),
    )
    task = ended.tasks["promote"]
    assert task["parameters"]["promoted"] is promoted
    assert bool(list((tmp_path / "models").rglob("adapter_model.safetensors"))) is promoted
    assert Path(task["artifacts"]["card"]["uri"]).read_text()
    is_reported(ended)
