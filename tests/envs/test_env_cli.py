"""`tuft-env`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from tests.envs.walks import walk
from tuft_components.envs import cli, make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.registry import ENVIRONMENTS, Registered

Capture = pytest.CaptureFixture[str]


def said(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return cli.main(arguments)


def test_all_are_listed_with_how_to_get_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(
        ENVIRONMENTS,
        "needy",
        Registered("a:b", "needs much", "id", ("no_such_module",), ("no-such-program",), "get it"),
    )
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0].partition(":")[0] for line in lines if not line.startswith(" ")}
    assert listed == {*ENVIRONMENTS, "python"}
    (needy,) = [n for n, line in enumerate(lines) if line.startswith("needy:ID")]
    assert "not installed" in lines[needy]
    assert lines[needy + 1].strip() == (
        "needs the Python module no_such_module, the program no-such-program. To install: get it"
    )
    (light,) = [line for line in lines if line.startswith("number_guess")]
    assert " installed " in light
    assert "not" not in light.split()


def test_a_person_wins(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert said(
        monkeypatch, "x\n1\n2\n3\n4\n5\n6\n7\n8\n", "play", "number_guess", "--split", "eval",
        "--seed", "2", "--index", "3", "--env-args", '{"guesses": 9}',
    ) == 0  # fmt: skip
    text = capsys.readouterr().out
    assert "from 1 to 8" in text.splitlines()[0]
    assert "[error: " in text
    assert "[reward 1, done]" in text
    assert re.search(r"reward 1 in \d turns$", text.strip())


def test_the_end_of_the_input_ends_the_episode(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert said(monkeypatch, "up\n", "play", "grid") == 0
    text = capsys.readouterr().out
    assert "[actions: up | down | left | right]" in text
    assert text.endswith("reward -0.05 in 1 turns; the episode is not over\n")


def test_messages_are_shown_with_their_role(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert said(monkeypatch, "12\n", "play", "shopping_list") == 0
    text = capsys.readouterr().out
    assert text.startswith("system: Use the tools")
    assert "\nuser: What do these cost together: " in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["play", "nothing"], 78, "no environment 'nothing'"),
        (["play", "grid", "--env-args", "{"], 78, "--env-args '{' is no JSON"),
        (["play", "grid", "--env-args", "[]"], 78, "give a JSON object"),
        (["play", "grid", "--env-args", '{"size": 99}'], 78, "size must be 2 to 9"),
        (["play", "tests.envs.test_env_cli:Broken"], 65, "ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_told(
    arguments: list[str],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    assert said(monkeypatch, "x\n", *arguments) == code
    assert says in capsys.readouterr().err


class Broken:
    def reset(self, task: Task) -> None:
        raise ZeroDivisionError

    def step(self, action: str) -> None: ...


def test_a_server_without_its_library_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(
        "tuft_components.envs.registry.find_spec",
        lambda name: None if name == "websockets" else find_spec(name),
    )
    assert cli.main(["serve", "grid"]) == 78
    assert "pip install 'tuft-pipelines[envs-openenv]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_served_environment_is_played_until_the_signal() -> None:
    if find_spec("websockets") is None:
        pytest.skip("websockets is not installed: make install-envs")
    process = subprocess.Popen(
        [sys.executable, "-m", "tuft_components.envs.cli", "serve", "number_guess", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        (address,) = re.findall(r"ws://\S+/ws", line)
        turns = walk(f"openenv:{address}", {}, Task("train", 0, 0), ["x", "y", "z"])
        assert [turn[2] for turn in turns] == [False, False, False, True]
    finally:
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 30


def test_nothing_heavy_is_imported_for_the_list() -> None:
    program = (
        "import sys; from tuft_components.envs import cli; cli.main(['list']); "
        "heavy = {'torch', 'transformers', 'gymnasium', 'websockets', 'tinker'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr


def test_tools_of_the_light_one_are_json() -> None:
    assert json.dumps(list(make_environment("shopping_list", {}).tools))
