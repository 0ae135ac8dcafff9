"""`tuft-pipelines demo` as a user runs it, on a random tiny model: real service, real steps."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.waiting import wait_until

SETTINGS = ["--iterations", "2", "--param", "groups=2", "--param", "group_size=2"]
SETTINGS += ["--param", "eval_episodes=4"]


def start(folder: Path, model_folder: Path) -> subprocess.Popen[str]:
    config = folder / "models.yaml"
    models = [{"model_name": "tiny", "model_path": str(model_folder)}]
    config.write_text(yaml.safe_dump({"supported_models": models}))
    command = [sys.executable, "-m", "tuft_pipelines.cli", "demo", *SETTINGS]
    command += ["--output", str(folder / "out"), "--model-config", str(config)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def processes_that_mention(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if any(str(folder) in word for word in words) and process.pid != os.getpid():
            found.append(" ".join(process.info["cmdline"] or []))
    return found


@pytest.mark.timeout(240)
def test_demo_trains_reports_judges_and_stops_everything(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    with start(tmp_path, tiny_model_folder) as process:
        text, _ = process.communicate()
    out = tmp_path / "out"
    # A random model does not learn the task in two updates, and the demo must say so.
    assert process.returncode == 1, text
    assert "the demo should take it from below 0.6 to above 0.9" in text
    assert re.search(r"iteration 2/2 +reward 0\.\d+ ", text)
    checkpoint = re.search(r"^checkpoint +tinker://(.+)/weights/final$", text, re.MULTILINE)
    assert checkpoint
    assert (out / "checkpoints" / "runs" / checkpoint[1] / "weights/final/manifest.json").is_file()
    history = json.loads((out / "history.json").read_text())
    assert [step["number"] for step in history["iterations"]] == [1, 2]
    assert [step["episodes"] for step in history["iterations"]] == [4, 4]
    assert [evaluation["episodes"] for evaluation in history["evaluations"]] == [4, 4]
    assert (out / "reward.png").is_file()
    assert (out / "report.html").is_file()
    assert "Warning" not in text
    assert "Traceback" not in text
    wait_until(lambda: not processes_that_mention(tmp_path), 10)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted_demo_leaves_no_process(
    number: signal.Signals, tmp_path: Path, tiny_model_folder: Path
) -> None:
    lines = []
    with start(tmp_path, tiny_model_folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "training run" in line:
                process.send_signal(number)
        process.wait()
    assert process.returncode == 130, "".join(lines)
    assert "interrupted; everything it started is stopped" in lines[-1]
    assert "Traceback" not in "".join(lines)
    wait_until(lambda: not processes_that_mention(tmp_path), 10)
