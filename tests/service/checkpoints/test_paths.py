"""Names and tinker:// paths."""

from __future__ import annotations

import pytest

from tuft.checkpoints import CheckpointPath, check_name, parse_path, prefix_of
from tuft.errors import InvalidRequest


@pytest.mark.parametrize("name", ["a", "0001", "step_10.final", "a=1,b=2@x+y:z-", "n" * 200, ".a"])
def test_names_that_are_fine(name: str) -> None:
    assert check_name(name) == name
    path = parse_path(f"tinker://s:train:0/sampler_weights/{name}")
    assert path == CheckpointPath("s:train:0", "sampler_weights", name)
    assert path.prefix == f"runs/s:train:0/sampler_weights/{name}"
    assert path.prefix == prefix_of("s:train:0", "sampler_weights", name)
    assert str(path) == f"tinker://s:train:0/sampler_weights/{name}"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "...", "a/b", "/", "../x", "a\\b", "a b", "a\n", "a?b", "a#b", "a%2e", "é",
     "a\x00", "n" * 201],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"checkpoint name .*letters, digits"):
        check_name(name)
    with pytest.raises(InvalidRequest):
        parse_path(f"tinker://run/weights/{name}")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "run/weights/a",
        "http://run/weights/a",
        "tinker:/run/weights/a",
        "tinker://run/weights",
        "tinker://run/weights/a/b",
        "tinker://run/snapshots/a",
        "tinker:///weights/a",
        "tinker://../weights/a",
        "tinker://r n/weights/a",
    ],
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"must be tinker://<training run>/<weights\|"):
        parse_path(path)
