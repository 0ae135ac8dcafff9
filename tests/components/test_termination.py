"""What a failed step says: on stderr, in the termination log, and by its exit code."""

from __future__ import annotations

import contextvars
import json
from pathlib import Path
from typing import Any

import pytest

from tuft_components.cli import main
from tuft_components.errors import BadData
from tuft_components.kfp_faces import run_lightweight
from tuft_components.termination import leave_last_words


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The termination log of a container."""
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(file))
    return file


def _step(*arguments: str) -> int:
    return contextvars.copy_context().run(main, list(arguments))


def test_a_command_leaves_its_last_words(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _step("feedback", "--input", "trajectories=/no", "--output", "batch=/tmp/b") == 65
    said = "the input /no does not exist"
    assert log.read_text() == f"tuft-step feedback (exit code 65): {said}"
    assert capsys.readouterr().err == f"tuft-step: {said}\n"


def test_the_container_of_kubeflow_leaves_them(log: Path) -> None:
    request: dict[str, Any] = {
        "inputs": {"parameterValues": {"lora_rank": 0}},
        "outputs": {"outputFile": "/tmp/never"},
    }
    assert _step("start_run", "--executor-input", json.dumps(request)) == 78
    assert log.read_text().startswith(
        "tuft-step start_run (exit code 78): step start_run: parameter lora_rank: "
    )


def test_the_lightweight_twin_leaves_them(log: Path) -> None:
    context = contextvars.copy_context()
    with pytest.raises(
        SystemExit, match=r"exit code 78\): step start_run: parameter lora_rank"
    ) as e:
        context.run(run_lightweight, "start_run", {"lora_rank": 0})
    assert log.read_text() == str(e.value)


def test_a_step_that_works_leaves_none(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _step("--help") == 0
    assert log.read_text() == ""
    assert "Execute one step" in capsys.readouterr().out


def test_nothing_is_made_where_there_is_no_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERMINATION_LOG", str(tmp_path / "none"))
    leave_last_words("x", BadData("y"))
    assert list(tmp_path.iterdir()) == []


def test_long_words_are_cut_between_letters(log: Path) -> None:
    leave_last_words("x", BadData("é" * 5000))
    text = log.read_bytes()
    assert 4090 < len(text) <= 4096
    assert text.decode().endswith("é…")


def test_a_bug_says_where_it_is(log: Path) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        leave_last_words("update", error)
    text = log.read_text()
    assert text.startswith("tuft-step update (exit code 1): a bug: ZeroDivisionError: division by")
    assert f'File "{__file__}"' in text
