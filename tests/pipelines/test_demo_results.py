from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tuft_pipelines.demo import verdict
from tuft_pipelines.demo_results import Progress, demo_history
from tuft_pipelines.errors import DemoFailed
from tuft_pipelines.local_run import Artifact, TaskResult
from tuft_pipelines.output import OutputFolder
from tuft_pipelines.report.table import bar


def task(name: str, seconds: float, parameters: dict[str, object], **metrics: float) -> TaskResult:
    artifacts = {"metrics": Artifact(uri=f"/{name}", metadata=metrics)} if metrics else {}
    return TaskResult(name, parameters, artifacts, seconds)


# The tasks of a pipeline of two iterations, with what the components report.
TASKS = [
    task("start run", 2.0, {"run_id": "s:train:0", "policy": "tinker://s/0"}),
    task("evaluate before", 5.0, {"mean_reward": 0.25}, episodes=96.0, mean_reward=0.25),
    task("rollout 1", 3.0, {}),
    task("feedback 1", 1.0, {"mean_reward": 0.5}, episodes=64.0),
    task("update 1", 6.0, {"policy": "tinker://s/1", "checkpoint": ""}, grad_norm=1.5, rows=48.0),
    task("rollout 2", 3.5, {}),
    task("feedback 2", 1.0, {"mean_reward": 0.75}, episodes=64.0),
    task("update 2", 6.0, {"policy": "tinker://s/2", "checkpoint": "tinker://s/w/final"}, rows=8.0),
    task("evaluate after", 5.0, {"mean_reward": 0.96875}, episodes=96.0),
]


def test_history_has_what_each_task_reported() -> None:
    history = demo_history({task.name: task for task in TASKS}, 2, {"base model": "tiny"})
    assert [(step.number, step.reward, step.episodes) for step in history.iterations] == [
        (1, 0.5, 64),
        (2, 0.75, 64),
    ]
    assert [step.seconds for step in history.iterations] == [10.0, 10.5]
    assert history.iterations[0].metrics == {"grad_norm": 1.5}
    assert (history.before.iteration, history.before.reward) == (0, 0.25)
    assert (history.after.iteration, history.after.reward) == (2, 0.96875)
    assert history.facts == {
        "training run": "s:train:0",
        "checkpoint": "tinker://s/w/final",
        "policy": "tinker://s/2",
        "base model": "tiny",
    }


def test_progress_says_one_line_for_what_matters() -> None:
    progress = Progress(2)
    lines = [line for line in map(progress.line, TASKS) if line is not None]
    assert [" ".join(line.split()) for line in lines] == [
        "training run s:train:0 (2.0 s)",
        "held-out reward before training: 0.250 (96 episodes, 5.0 s)",
        f"iteration 1/2 reward 0.500 10.0 s {bar(0.5)}",
        f"iteration 2/2 reward 0.750 10.5 s {bar(0.75)}",
        "held-out reward after training: 0.969 (96 episodes, 5.0 s)",
    ]


@pytest.mark.parametrize(
    ("before", "after", "good"),
    [(0.3, 0.95, True), (0.3, 0.9, False), (0.6, 0.95, False), (0.3, 0.3, False)],
)
def test_verdict_wants_below_06_and_then_above_09(
    tmp_path: Path, before: float, after: float, good: bool
) -> None:
    tasks = {task.name: task for task in TASKS}
    for name, reward in (("evaluate before", before), ("evaluate after", after)):
        tasks[name] = task(name, 1.0, {"mean_reward": reward}, episodes=96.0)
    output = OutputFolder(tmp_path)
    output.write(demo_history(tasks, 2, {}))
    if good:
        verdict(output.history_file)
    else:
        with pytest.raises(DemoFailed, match=f"from {before:.3f} to {after:.3f}"):
            verdict(output.history_file)


def test_output_folder_has_all_three_and_forgets_an_earlier_run(tmp_path: Path) -> None:
    history = demo_history({task.name: task for task in TASKS}, 2, {"base model": "tiny"})
    output = OutputFolder(tmp_path / "new" / "folder")
    output.clear()
    files = output.write(history)
    assert [file.name for file in files] == ["history.json", "reward.png", "report.html"]
    assert json.loads(files[0].read_text()) == asdict(history)
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "tinker://s/w/final" in files[2].read_text()
    (output.folder / "checkpoints").mkdir()
    output.clear()
    assert not any(file.exists() for file in files)
    assert (output.folder / "checkpoints").is_dir()
