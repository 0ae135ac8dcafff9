"""The first colour that an option names, as WebShop's reward compares options.

`colours.txt` has them; another list, or order, would give other rewards.
"""

from __future__ import annotations

from collections.abc import Container
from importlib.resources import files


def words_in(name: str) -> tuple[str, ...]:
    """Of a text file beside this module; lines that begin with # are about it."""
    lines = files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()
    return tuple(" ".join(line for line in lines if not line.startswith("#")).split())


_COLOURS = words_in("colours.txt")


def colour_in(option: Container[str]) -> str | None:
    """The first of the list in `option`; of a text that is: as a part of it."""
    return next((colour for colour in _COLOURS if colour in option), None)
