from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from tuft_pipelines.demo_pipeline import build_demo
from tuft_pipelines.errors import PipelineFailed
from tuft_pipelines.faces import local_faces
from tuft_pipelines.local_run import TaskResult, run_locally

IMAGE = "python:3.11"


def component(function: Any) -> Any:
    return dsl.component(base_image=IMAGE, install_kfp_package=False)(function)


@component
def write(count: int, rows: dsl.Output[dsl.Dataset]) -> float:
    with open(rows.path, "w") as file:
        file.write("x" * count)
    rows.metadata["rows"] = count
    return count / 2


@component
def measure(rows: dsl.Input[dsl.Dataset], scores: dsl.Output[dsl.Metrics], exit_code: int) -> bool:
    import sys

    if exit_code:
        sys.stderr.write("no rows in the batch\n")
        sys.exit(exit_code)
    with open(rows.path) as file:
        scores.log_metric("length", len(file.read()))
    return False


@dsl.pipeline(name="two-rounds")
def two_rounds(count: int, exit_code: int = 0) -> None:
    before = None
    for number in (1, 2):
        rows = write(count=count).set_display_name(f"write {number}")
        if before is not None:
            rows.after(before)
        rows.set_caching_options(False)
        before = measure(rows=rows.outputs["rows"], exit_code=exit_code)
        before.set_display_name(f"measure {number}").set_caching_options(False)


@dsl.pipeline(name="skips")
def skips(count: int) -> None:
    rows = write(count=count)
    measured = measure(rows=rows.outputs["rows"], exit_code=0)
    with dsl.If(measured.outputs["Output"] == True):  # noqa: E712
        write(count=1)


def test_results_are_read_from_the_outputs_in_order(tmp_path: Path) -> None:
    seen: list[TaskResult] = []
    log_file = tmp_path / "logs" / "kfp.log"
    results = run_locally(
        two_rounds, {"count": 3}, folder=tmp_path / "root", log_file=log_file, on_task=seen.append
    )
    assert list(results) == ["write 1", "measure 1", "write 2", "measure 2"]
    assert list(results.values()) == seen
    assert results["write 2"].parameters == {"Output": 1.5}
    assert results["measure 2"].artifacts["scores"].metadata == {"length": 3}
    assert Path(results["write 1"].artifacts["rows"].uri).read_text() == "xxx"
    assert all(result.seconds > 0 for result in seen)


def test_a_second_run_in_the_same_folder_reads_its_own_outputs(tmp_path: Path) -> None:
    root, log_file = tmp_path / "root", tmp_path / "kfp.log"
    run_locally(two_rounds, {"count": 3}, folder=root, log_file=log_file)
    results = run_locally(two_rounds, {"count": 5}, folder=root, log_file=log_file)
    assert results["measure 2"].artifacts["scores"].metadata == {"length": 5}


def test_failure_names_the_task_and_shows_its_own_words(tmp_path: Path) -> None:
    seen: list[TaskResult] = []
    with pytest.raises(PipelineFailed) as failed:
        run_locally(
            two_rounds,
            {"count": 3, "exit_code": 65},
            folder=tmp_path / "root",
            log_file=tmp_path / "kfp.log",
            on_task=seen.append,
        )
    assert str(failed.value).startswith("measure 1 failed; the end of ")
    assert "no rows in the batch" in str(failed.value)
    assert '"parameterValues"' not in str(failed.value)
    assert "\x1b" not in str(failed.value)
    assert [task.name for task in seen] == ["write 1"]


def test_success_without_an_output_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(PipelineFailed, match="these tasks have no output: condition-1"):
        run_locally(skips, {"count": 3}, folder=tmp_path, log_file=tmp_path / "logs" / "kfp.log")


def test_nothing_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log_file = tmp_path / "kfp.log"
    run_locally(two_rounds, {"count": 1}, folder=tmp_path / "root", log_file=log_file)
    assert capfd.readouterr() == ("", "")
    assert "finished with status SUCCESS" in log_file.read_text()


def test_a_step_that_fails_is_named_as_the_user_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TINKER_API_KEY", "wrong-prefix")
    with pytest.raises(PipelineFailed) as failed:
        run_locally(
            build_demo(local_faces(), 1),
            {},
            folder=tmp_path / "root",
            log_file=tmp_path / "kfp.log",
        )
    assert str(failed.value).startswith("start run failed; the end of ")
    assert "TINKER_API_KEY must begin with 'tml-'" in str(failed.value)
