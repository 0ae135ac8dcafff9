"""Numbers in texts: what a model gave as its answer."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 20_000
"""Letters that are looked at, the last of a text."""

PLACES = ("auto", "boxed", "hashes", "last")

# Bounded everywhere: a model may say anything. Thousands may be set apart by commas.
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?\$?(?:\d{1,3}(?:,\d{3}){1,12}|\d{1,60})?(?:\.\d{1,60}|(?<=\d)\.?)"
    r"(?:[eE][-+]?\d{1,3})?(?:\s?/\s?\d{1,60})?(?![\w])"
)
_FRACTION = re.compile(r"\\[dt]?frac\s?\{\s?(-?\d{1,60})\s?\}\s?\{\s?(\d{1,60})\s?\}")
_BOXED = "\\boxed{"
_HASHES = "####"


def answer_in(text: str, place: str = "auto") -> Fraction | None:
    """The number that a text gives as its answer, or None.

    `boxed`: in the last \\boxed{}; `hashes`: behind the last ####; `last`: the last number there
    is; `auto`: the first of these three that the text has.
    """
    text = text[-LONGEST:]
    found: str | None = None
    if place in ("auto", "boxed"):
        found = _boxed(text)
    if found is None and place in ("auto", "hashes") and _HASHES in text:
        found = text.rpartition(_HASHES)[2].strip().partition("\n")[0]
    if found is None:
        return _last_number(text) if place in ("auto", "last") else None
    return _last_number(found)


def _boxed(text: str) -> str | None:
    _, found, rest = text.rpartition(_BOXED)
    if not found:
        return None
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[:place]
    return None  # cut off in the middle of it


def _last_number(text: str) -> Fraction | None:
    text = _FRACTION.sub(r" \1/\2 ", text).replace("\\,", "").replace("{,}", ",")
    last = None
    for found in _NUMBER.finditer(text):
        number = number_of(found.group())
        last = last if number is None else number
    return last


def number_of(text: str) -> Fraction | None:
    """The number that a text is, such as -1,234.5, 3/4 or 1e-3; else None."""
    plain = text.replace(",", "").replace("$", "").replace("−", "-").replace(" ", "")
    top, slash, bottom = plain.rstrip(".").partition("/")
    try:
        number = Fraction(top) / (Fraction(bottom) if slash else 1)
    except (ValueError, ZeroDivisionError):
        return None
    return number
