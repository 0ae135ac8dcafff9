"""What can be known of the images without building them."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.manifests.kustomize import MANIFESTS, ROOT

FILES = sorted((MANIFESTS / "images").glob("*.Containerfile"))
SCRIPTS = [MANIFESTS / "images" / "build.sh", MANIFESTS / "overlays" / "local" / "up.sh"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(file: Path) -> list[tuple[str, str]]:
    """Word and rest of each, without comments, continued lines joined."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def of(file: Path, word: str) -> list[str]:
    return [rest for found, rest in instructions(file) if found == word]


def pip_installs(file: Path) -> list[list[str]]:
    commands = [part.strip() for run in of(file, "RUN") for part in run.split("&&")]
    return [shlex.split(command) for command in commands if "pip install" in command]


def test_there_is_one_for_steps_and_two_for_the_service() -> None:
    assert [file.stem for file in FILES] == ["service-cpu", "service-cuda", "steps"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_it_copies_is_committed(file: Path) -> None:
    for rest in of(file, "COPY"):
        *sources, _target = rest.split()
        if sources[0] == "--from=build":
            assert sources[1:] == ["/opt/tuft"]
            continue
        for source in sources:
            listed = ["git", "ls-files", "--error-unmatch", source]
            done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {source for rest in of(file, "COPY") for source in rest.split()[:-1]}
    assert {package.partition("/")[0] for package in packages} | {"README.md"} <= copied


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_ends_as_an_image_for_anybody_but_root(file: Path) -> None:
    assert of(file, "USER") == ["10001:10001"]
    words = [word for word, _ in instructions(file)]
    assert words.count("FROM") == 2
    assert words.index("USER") > len(words) - words[::-1].index("FROM"), "of the last stage"
    assert of(file, "ARG")[0] == "PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm"
    [command] = of(file, "CMD")
    program = re.findall(r'"([^"]+)"', command)[0]
    assert program in PROJECT["project"]["scripts"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_versions_come_from_the_constraints(file: Path) -> None:
    installs = pip_installs(file)
    assert installs
    extras = PROJECT["project"]["optional-dependencies"]
    for words in installs:
        assert words[words.index("-c") + 1] == "constraints.txt", words
        assert "--no-cache-dir" in words
        match = re.fullmatch(r"\.\[(.*)\]", words[-1])
        if match:
            assert set(match.group(1).split(",")) <= set(extras)
        if words[-1].startswith("torch=="):
            assert words[-1] in extras["service"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_shell_and_say_that_ci_does_not_run_them(script: Path) -> None:
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Not run in CI" in script.read_text()
    assert script.stat().st_mode & 0o111
    version = re.findall(r"^version=([\d.]+)$", script.read_text(), re.MULTILINE)
    assert version in ([], [PROJECT["project"]["version"]])
