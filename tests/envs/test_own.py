"""An environment of a user's own: the one that docs/environments.md shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.envs.walks import won
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task, Turn

DOCS = Path(__file__).parents[2] / "docs" / "environments.md"
CAPITALS = {"France": "Paris", "Peru": "Lima", "Japan": "Tokyo"}


def knows(turn: Turn) -> str:
    country = re.fullmatch(r"The capital of (\w+) is", str(turn.observation))
    assert country
    return f" {CAPITALS[country[1]]}, of course"


@pytest.mark.parametrize("split", ["train", "eval"])
async def test_the_documented_one_is_played_as_it_stands(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(# capitals\.py.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "capitals.py").write_text("".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    name, task = "python:capitals:Capitals", Task(split, 0, 0)
    assert await won(make_environment(name, {}), knows, task) == 1
    assert await won(make_environment(name, {}), lambda _: " Atlantis", task) == 0
