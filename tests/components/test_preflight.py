"""What a preflight says where something is wrong; tests/e2e/test_preflight.py has the service."""

from __future__ import annotations

import contextvars
import json
from pathlib import Path
from typing import Any

import pytest

from tests.sdk_ext.web import Answer, web
from tuft_components.cli import main
from tuft_components.errors import BadConfiguration, TransientFailure
from tuft_components.kfp_faces import run_lightweight
from tuft_components.preflight.findings import Finding, markdown, raise_what_is_wrong
from tuft_components.preflight.own_checks import (
    environment_finding,
    reward_finding,
    work_finding,
)
from tuft_components.preflight.service_checks import service_findings

WRONG = {
    "env": "no_such_package:Env",
    "reward": "bleu",
    "work_uri": "gs://bucket/x",
    "wait_s": "0.2",
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(file))
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TINKER_API_KEY", "tml-k")
    return file


def _says_all(text: str) -> None:
    assert "3 wrong and 1 away for now of 7 checks" in text
    for what in (
        "1. environment: environment no_such_package:Env: can't import no_such_package",
        "2. reward: no reward 'bleu'; there are: env, exact_match",
        "3. service: GET http://127.0.0.1:9/api/v1/readyz: no connection",
        "4. work_uri: can't read 'gs://bucket/x/preflight/",
        "-> correct TINKER_BASE_URL, or start the service",
    ):
        assert what in text


def test_a_command_says_all_that_is_wrong_at_once(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.md"
    arguments = [text for n, v in WRONG.items() for text in ("--param", f"{n}={v}")]
    arguments = ["preflight", *arguments, "--output", f"report={report}"]
    assert contextvars.copy_context().run(main, arguments) == 78
    _says_all(capsys.readouterr().err)
    _says_all(log.read_text())
    assert "| service | ⏳ away | GET http://127.0.0.1:9/" in report.read_text()
    assert "| tokenizer | – not checked | since service is not ok |" in report.read_text()


def test_the_container_of_kubeflow_says_it_too(log: Path, tmp_path: Path) -> None:
    request: dict[str, Any] = {
        "inputs": {"parameterValues": WRONG},
        "outputs": {
            "artifacts": {"report": {"artifacts": [{"uri": str(tmp_path / "r.md")}]}},
            "outputFile": str(tmp_path / "executor_output.json"),
        },
    }
    arguments = ["preflight", "--executor-input", json.dumps(request)]
    assert contextvars.copy_context().run(main, arguments) == 78
    _says_all(log.read_text())
    assert not (tmp_path / "executor_output.json").exists()


def test_the_lightweight_twin_says_it_too(log: Path, tmp_path: Path) -> None:
    class Place:
        path = str(tmp_path / "r.md")
        metadata: dict[str, Any] = {}

    with pytest.raises(SystemExit) as caught:
        arguments = {**WRONG, "report": Place()}
        contextvars.copy_context().run(run_lightweight, "preflight", arguments)
    _says_all(str(caught.value))
    _says_all(log.read_text())


def test_what_is_only_away_may_be_tried_again() -> None:
    findings = [Finding("service", "away", "no answer", "wait"), Finding("reward", "ok", "r")]
    with pytest.raises(TransientFailure, match="1 away for now of 2 checks"):
        raise_what_is_wrong(findings)
    with pytest.raises(BadConfiguration):
        raise_what_is_wrong([*findings, Finding("key", "wrong", "unknown")])
    raise_what_is_wrong([Finding("work_uri", "note", "none"), Finding("reward", "ok", "r")])


def test_a_report_holds_what_was_seen_whatever_it_is() -> None:
    text = markdown([Finding("env", "wrong", "a|b\n<img src=x>", "do *it*")])
    assert "| env | ❌ wrong | a\\|b \\<img src=x\\> |" in text
    assert "- **env**: do \\*it\\*" in text


@pytest.mark.parametrize(
    ("name", "split", "state", "says"),
    [
        ("second_word", "train", "ok", "gives tasks of split 'train'"),
        ("second_word", "dev", "wrong", "no split 'dev'; there are: train, eval"),
        ("tests.components.preflight_users:Forgetful", "train", "wrong", "in two ways"),
        ("tests.components.preflight_users:Broken", "train", "wrong", "raised KeyError: 'quest"),
        ("", "train", "not checked", "none is given"),
    ],
)
def test_an_environment_is_tried(name: str, split: str, state: str, says: str) -> None:
    finding = environment_finding(name, {}, split)
    assert finding.state == state
    assert says in finding.says


def test_a_reward_is_made() -> None:
    assert reward_finding("exact_match", {}).state == "ok"
    wrong = reward_finding("exact_match", {"case": "low"})
    assert wrong.state == "wrong"
    assert "case" in wrong.says
    mute = reward_finding("tests.components.preflight_users:Forgetful", {})
    assert "needs a method __call__" in mute.says


def test_a_folder_is_really_written(tmp_path: Path) -> None:
    assert work_finding(str(tmp_path / "work")).state == "ok"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    (tmp_path / "file").touch()
    wrong = work_finding(str(tmp_path / "file"))
    assert wrong.state == "wrong"
    assert "make the bucket or folder" in wrong.advice
    assert work_finding("").state == "note"


def test_a_bucket_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As AWS and MinIO answer; the S3 server of our tests makes buckets by itself."""
    answer = b"<Error><Code>NoSuchBucket</Code><BucketName>bucket</BucketName></Error>"
    with web(Answer(404, answer, {"Content-Type": "application/xml"})) as site:
        monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
        finding = work_finding("s3://bucket/x")
    assert finding.state == "wrong"
    assert "does not exist (NoSuchBucket)" in finding.says
    assert "s3://b/x/preflight" in work_finding("s3://b/x").says  # a name that no bucket can have


@pytest.mark.parametrize(
    ("answers", "check", "says"),
    [
        ([Answer(404)], "service", "is no TuFT service"),
        ([Answer(200), Answer(404)], "key and version", "does not tell a TuFT version"),
        ([Answer(200), Answer(200, b"<html>")], "key and version", "a proxy's page?"),
        (
            [Answer(200), Answer(200, b'{"tuft": "9.1", "interface": 2}')],
            "key and version",
            "the service is TuFT 9.1 with interface 2, and these steps speak 1",
        ),
        ([Answer(200), Answer(401)], "key and version", "401"),
    ],
)
def test_another_service_is_told(
    answers: list[Answer], check: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web(*answers) as site:
        monkeypatch.setenv("TINKER_BASE_URL", site.url)
        monkeypatch.setenv("TINKER_API_KEY", "tml-k")
        findings = {finding.check: finding for finding in service_findings("", "", 0.2)}
    assert findings[check].state == "wrong"
    assert says in findings[check].says
    assert findings["tokenizer"].says == f"since {check} is not ok"
