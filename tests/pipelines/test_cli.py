from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tuft_pipelines import run
from tuft_pipelines.arguments import parse_arguments
from tuft_pipelines.cli import main
from tuft_pipelines.demo_pipeline import build_demo
from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.faces import local_faces


def test_compile_writes_a_pipeline_and_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "demo.yaml"
    arguments = ["compile", "demo", "-o", str(path), "--iterations", "2", "--secret", "keys"]
    assert main(arguments) == 0
    spec, platform = yaml.safe_load_all(path.read_text())
    assert len(spec["root"]["dag"]["tasks"]) == 9
    assert "keys" in str(platform)
    assert "TINKER_BASE_URL and TINKER_API_KEY from the Secret 'keys'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "demo", "-o", "x.yaml", "--iterations", "99"], "iterations is 99"),
        (["compile", "demo", "-o", "x.json"], "must end in .yaml"),
        (["run", "demo", "--param", "groups=many"], "groups is a whole number, which 'many'"),
        (["run", "demo", "--iterations", "0"], "iterations is 0"),
    ],
)
def test_wrong_arguments_are_named_at_once(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    assert main(arguments) == 78
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["TINKER_BASE_URL", "TINKER_API_KEY"])
def test_run_needs_a_service(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    monkeypatch.delenv(missing)
    assert main(["run", "demo", "--output", str(tmp_path / "out")]) == 78
    assert f"{missing} is not set" in capsys.readouterr().err


def test_run_says_that_the_service_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_REACHABLE_WITHIN_S", 0.2)
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    assert main(["run", "demo", "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "the service does not answer" in error
    assert "http://127.0.0.1:1" in error


def test_arguments_get_the_types_of_the_pipeline() -> None:
    pipeline = build_demo(local_faces(), 1)
    settings = ["groups=4", "learning_rate=1e-3", 'env_args={"a": "x=y"}', "base_model="]
    assert parse_arguments(pipeline, settings) == {
        "groups": 4,
        "learning_rate": 0.001,
        "env_args": '{"a": "x=y"}',
        "base_model": "",
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("groups", "write NAME=VALUE"),
        ("speed=9", "no parameter 'speed'; there are: base_model, env"),
        ("groups=4.5", "a whole number"),
        ("learning_rate=fast", "a number"),
    ],
)
def test_wrong_settings_say_what_would_be_right(setting: str, message: str) -> None:
    with pytest.raises(WrongArgument, match=message):
        parse_arguments(build_demo(local_faces(), 1), [setting])
