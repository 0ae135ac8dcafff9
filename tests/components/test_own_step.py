"""A step of a user's own module: by its path, in all forms. docs/steps.md shows the same one."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.components.samples import transition
from tests.components.test_cli import tuft_step
from tuft_components.errors import BadConfiguration
from tuft_components.steps import load_step
from tuft_components.trajectories import write_trajectories

PATH = "tests.components.own_step:STEP"
DOCS = Path(__file__).parents[2] / "docs" / "steps.md"


@pytest.fixture
def trajectories(tmp_path: Path) -> str:
    path = str(tmp_path / "t.parquet")
    rows = [transition(sample=n, completion_tokens=[8] * n, logprobs=[-1.0] * n) for n in (1, 2, 3)]
    write_trajectories(path, rows, {})
    return path


def test_it_is_executed_by_its_path(trajectories: str, tmp_path: Path) -> None:
    count = tmp_path / "n.txt"
    arguments = ["--param", "longest=2", "--input", f"trajectories={trajectories}"]
    done = tuft_step(PATH, *arguments, "--output", f"too_long={count}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == {"share_too_long": 1 / 3}
    assert count.read_text() == "1"


def test_its_components_are_made_from_its_contract(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tuft_components.component_files", PATH]
    source = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    file = tmp_path / "my_component.py"
    file.write_text(source)
    spec = spec_from_file_location("my_component", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    container = module.count_long.component_spec.implementation.container
    assert container.command == ["tuft-step", PATH]
    assert set(module.count_long_lightweight.component_spec.inputs) == {"longest", "trajectories"}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tests.components.own_step:Params", "is a ModelMetaclass, not a Step"),
        ("tests.components.own_step:STEPS", "has no 'STEPS'"),
        ("tests.components.nothing:STEP", "can't import tests.components.nothing"),
    ],
)
def test_what_is_no_step_is_named(path: str, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        load_step(path)


def test_the_docs_show_it() -> None:
    body = (Path(__file__).parent / "own_step.py").read_text().partition("annotations\n\n")[2]
    assert f"# my_steps.py\n{body}```" in DOCS.read_text()
