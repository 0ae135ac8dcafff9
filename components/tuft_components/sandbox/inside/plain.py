"""Values between the code that is tested and its tests: what Python's literals can say.

Both sides read only literals: neither can make the other run anything. Anything else that a
function returns stays where it is, and is told as a number: `(..., 7)`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

LONGEST = 1_000_000


def encode(value: object, keep: Callable[[object], int]) -> str:
    """One line; `keep` gives the number of what is no literal, or raises TypeError."""
    text = _text(value, keep, 0)
    if len(text) > LONGEST:
        raise TypeError("the value is too long")
    return text


def _text(value: Any, keep: Callable[[object], int], depth: int) -> str:
    if depth > 50:
        raise TypeError("the value is nested too deeply")
    kind = type(value)
    if kind is float and not math.isfinite(value):
        if math.isnan(value):
            raise TypeError("a value is nan")
        return "1e999" if value > 0 else "-1e999"
    if value is None or kind in (bool, int, float, str, bytes):
        return repr(value)
    if kind is dict:
        pairs = (
            _text(key, keep, depth + 1) + ":" + _text(item, keep, depth + 1)
            for key, item in value.items()
        )
        return "{" + ",".join(pairs) + "}"
    if kind in (list, tuple, set, frozenset):
        parts = [_text(item, keep, depth + 1) for item in value]
        if kind is list:
            return "[" + ",".join(parts) + "]"
        if kind is tuple:
            return "(" + "".join(part + "," for part in parts) + ")"
        return "{" + ",".join(parts) + "}" if parts else "set()"
    return f"(...,{int(keep(value))})"


def decode(text: str, found: Callable[[int], object]) -> Any:
    """The value of a line; `found` gives what stands for a number.

    Raises:
        ValueError: it is no such line.
    """
    try:
        return _value(ast.literal_eval(text), found)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"not a value: {error}") from None


def _value(value: Any, found: Callable[[int], object]) -> Any:
    kind = type(value)
    if kind is tuple and len(value) == 2 and value[0] is ...:
        return found(value[1])
    if kind in (list, tuple, set):
        return kind(_value(item, found) for item in value)
    if kind is dict:
        return {_value(key, found): _value(item, found) for key, item in value.items()}
    return value
