"""`tuft-step` as a process: its output and its exit codes."""

from __future__ import annotations

import contextvars
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.components.samples import TRANSITION, transition
from tuft_components.batches import read_batch
from tuft_components.cli import main
from tuft_components.trajectories import write_trajectories


def tuft_step(
    *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TINKER", "AWS"))}
    return subprocess.run(
        [sys.executable, "-m", "tuft_components.cli", *arguments],
        env={**inherited, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def trajectories(tmp_path: Path) -> str:
    uri = str(tmp_path / "t.parquet")
    write_trajectories(uri, [TRANSITION, transition(sample=1, completion_text="x")], {})
    return uri


def test_a_step_writes_its_outputs_and_prints_them(tmp_path: Path, trajectories: str) -> None:
    batch, reward = tmp_path / "b.parquet", tmp_path / "reward"
    done = tuft_step(
        "feedback",
        *("--param", "reward=exact_match", "--param", "advantage=rloo"),
        *("--input", f"trajectories={trajectories}"),
        *("--output", f"batch={batch}", "--output", f"mean_reward={reward}"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    outputs = json.loads(done.stdout)
    assert outputs["mean_reward"] == 0.5
    assert outputs["batch"] == {
        "uri": str(batch),
        "metadata": {
            "schema": "tuft.batch/1",
            "rows": 2,
            "reward": "exact_match",
            "advantage": "rloo",
            "credit": "episode",
        },
    }
    assert [row.advantages[0] for row in read_batch(str(batch))] == [1.0, -1.0]
    assert reward.read_text() == "0.5"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing"], 78, "no step 'nothing'; there are: evaluate, feedback"),
        (["feedback", "--parm", "x=1"], 78, "unrecognized arguments"),
        (["feedback", "--param", "x"], 78, "give NAME=VALUE"),
        (["feedback", "--param", "a=1", "--param", "a=2"], 78, "given twice"),
        (["feedback", "--executor-input", "{}"], 78, "no KFP executor input"),
        (["feedback", "--executor-input", "{}", "--param", "a=1"], 78, "brings everything"),
        (["feedback", "--input", "trajectories=/no", "--output", "batch=/tmp/b"], 65, "not exist"),
        (["rollout", "--param", "policy=p", "--output", "trajectories=/tmp/t"], 78, "TINKER_BASE"),
        (["update", "--param", "run_id=r", "--input", "batch=ftp://x"], 78, "give a file path"),
        (["start_run", "--param", "lora_rank=0"], 78, "lora_rank"),
        (["start_run", "--param", "train_attn=0", "--param", "train_mlp=0",
          "--param", "train_unembed=0"], 78, "must be true"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_the_exit_code(
    arguments: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TINKER_BASE_URL", raising=False)
    # In a context of its own: what main says about its process must not stay.
    assert contextvars.copy_context().run(main, arguments) == code
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""


def test_a_failed_step_ends_its_process_with_the_code_and_one_message() -> None:
    done = tuft_step("start_run", "--param", "lora_rank=0")
    assert done.returncode == 78
    assert done.stderr.startswith("tuft-step: step start_run: parameter lora_rank:")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["start_run"],
        ["rollout", "--param", "policy=p", "--output", "trajectories=/tmp/t"],
        ["evaluate", "--param", "policy=p"],
    ],
)
def test_a_service_that_is_away_is_transient(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TINKER_API_KEY", "tml-k")
    arguments = [*arguments, "--param", "timeout_s=0.5"]
    assert contextvars.copy_context().run(main, arguments) == 75
    assert "no connection to the service" in capsys.readouterr().err


def test_help_tells_the_contract() -> None:
    done = tuft_step("update", "--help")
    assert done.returncode == 0
    for text in ("learning_rate [0.0001]", "run_id  The training run.", "inputs:", "  policy"):
        assert text in done.stdout
    assert "rollout" in tuft_step().stdout


def test_what_a_users_code_raises_is_told_with_its_traceback(
    tmp_path: Path, trajectories: str
) -> None:
    (tmp_path / "mine.py").write_text("def reward(trajectory):\n    return 1 / 0\n")
    done = tuft_step(
        *("feedback", "--param", "reward=mine:reward"),
        *("--input", f"trajectories={trajectories}", "--output", f"batch={tmp_path / 'b'}"),
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 65
    assert "    return 1 / 0" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "tuft-step: reward mine:reward, for (iteration, group, sample) (0, 0, 0)"
    )
    assert last.endswith(f"ZeroDivisionError: division by zero ({tmp_path / 'mine.py'}, line 2)")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tuft_components.cli.load_step", broken)
    with pytest.raises(ZeroDivisionError):
        contextvars.copy_context().run(main, ["feedback"])
