"""Programs that run inside a sandbox, as text: with the standard library only, and Python 3.9."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def source(name: str) -> str:
    """The text of one of them."""
    return (files(__package__) / f"{name}.py").read_text()
