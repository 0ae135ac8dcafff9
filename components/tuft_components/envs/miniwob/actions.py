"""Actions on a page: their text, and what the mouse and the keyboard do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuft_components.envs.browser.chromium import Page

HOW = (
    "Say click[ref], type[ref, text], select[ref, option], press[key], drag[ref, ref] or at[x, y]."
)
LONGEST_TEXT = 500
_CODES = {
    "Enter": 13,
    "Tab": 9,
    "Backspace": 8,
    "Delete": 46,
    "Escape": 27,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Home": 36,
    "End": 35,
    "PageUp": 33,
    "PageDown": 34,
}
_EDITS = {"a": "selectAll", "c": "copy", "x": "cut", "v": "paste"}
KEYS = (*_CODES, *(f"Control+{letter}" for letter in _EDITS))


class NoAction(ValueError):
    """It does not parse, or the page has no such element; with what would be right."""


@dataclass(frozen=True)
class Action:
    """`verb` as in `HOW`; the numbers are references, or a place on the page."""

    verb: str
    numbers: tuple[int, ...] = ()
    text: str = ""


_ACTION = re.compile(r"\s*(click|type|select|press|drag|at)\s*\[(.*)\]", re.IGNORECASE | re.DOTALL)


def parse(text: str) -> Action:
    """Raises:
    NoAction: it is none.
    """
    found = _ACTION.match(text)
    if found is None:
        raise NoAction(HOW)
    verb, inside = found[1].lower(), found[2]
    try:
        if verb == "press":
            keys = {key.lower(): key for key in KEYS}
            return Action(verb, text=keys[inside.strip().lower()])
        if verb in ("type", "select"):
            number, _, rest = inside.partition(",")
            rest = rest.strip().strip('"')
            return Action(verb, (_number(number),), rest[:LONGEST_TEXT])
        numbers = tuple(map(_number, inside.split(",")))
    except KeyError:
        raise NoAction(f"there is no key {inside!r}; there are: {', '.join(KEYS)}") from None
    except ValueError:
        raise NoAction(HOW) from None
    if len(numbers) != (1 if verb == "click" else 2):
        raise NoAction(HOW)
    return Action(verb, numbers)


def _number(text: str) -> int:
    stripped = text.strip().strip("[]")
    if not re.fullmatch(r"\d{1,6}", stripped):
        raise ValueError(stripped)
    return int(stripped)


async def act(page: Page, action: Action, timeout_s: float) -> None:
    """Raises:
    NoAction: the page has no such element. Others: as `Page.call`.
    """
    if action.verb == "press":
        await _press(page, action.text, timeout_s)
        return
    if action.verb == "at":
        await _mouse(page, [action.numbers], timeout_s)
        return
    if action.verb == "drag":
        places = [
            await page.evaluate(f"tuft.place({number})", timeout_s=timeout_s)
            for number in action.numbers
        ]
        for number, place in zip(action.numbers, places, strict=True):
            _check(place, f"there is no [{number}]")
        await _mouse(page, places, timeout_s)
        return
    (number,) = action.numbers
    if action.verb == "select":
        script = f"tuft.select({number}, {json.dumps(action.text)})"
        done = await page.evaluate(script, timeout_s=timeout_s)
        _check(done, f"[{number}] is no list with an option {action.text!r}")
        return
    verb = "focus" if action.verb == "type" else "click"
    done = await page.evaluate(f"tuft.{verb}({number})", timeout_s=timeout_s)
    _check(done, f"there is no [{number}]")
    if action.verb == "type":
        await _type(page, action.text, timeout_s)


def _check(found: object, otherwise: str) -> None:
    if not found:
        raise NoAction(f"{otherwise}. {HOW}")


async def _type(page: Page, text: str, timeout_s: float) -> None:
    """Over what is selected. Key by key, since tasks listen to them; in one go, since it is text
    of ours and nothing between two keys is looked at."""
    if not text:
        await _press(page, "Delete", timeout_s)
        return
    events: list[Mapping[str, Any]] = []
    for letter in text:
        code = ord(letter.upper()) if letter.isascii() and letter.isalnum() else 0
        key = {"key": letter, "windowsVirtualKeyCode": code}
        events += [{"type": "keyDown", "text": letter, **key}, {"type": "keyUp", **key}]
    await _input(page, "dispatchKeyEvent", events, timeout_s)


async def _press(page: Page, key: str, timeout_s: float) -> None:
    control, _, letter = key.rpartition("+")
    name = letter if control else key
    code = ord(name.upper()) if control else _CODES[name]
    down: dict[str, Any] = {"key": name, "code": name, "windowsVirtualKeyCode": code}
    up = {**down, "type": "keyUp"}
    if control:
        down |= {"modifiers": 2, "commands": [_EDITS[name]]}
    elif name == "Enter":
        down["text"] = "\r"
    await _input(page, "dispatchKeyEvent", [{"type": "keyDown", **down}, up], timeout_s)


async def _mouse(page: Page, places: list[tuple[int, ...]], timeout_s: float) -> None:
    """A click at one place, or a drag from the first to the last."""
    button = {"button": "left", "clickCount": 1}
    (x, y), (end_x, end_y) = places[0], places[-1]
    between = {"x": (x + end_x) // 2, "y": (y + end_y) // 2, "buttons": 1}
    moves = [{"type": "mouseMoved", "x": x, "y": y}]
    drag = [between, {"x": end_x, "y": end_y, "buttons": 1}] if len(places) > 1 else []
    events: list[Mapping[str, Any]] = [
        *moves,
        {"type": "mousePressed", "x": x, "y": y, **button},
        *({"type": "mouseMoved", "button": "left", **move} for move in drag),
        {"type": "mouseReleased", "x": end_x, "y": end_y, **button},
    ]
    await _input(page, "dispatchMouseEvent", events, timeout_s)


async def _input(
    page: Page, method: str, events: list[Mapping[str, Any]], timeout_s: float
) -> None:
    """All are sent at once; the browser keeps their order."""
    calls = [page.call(f"Input.{method}", event, timeout_s=timeout_s) for event in events]
    await asyncio.gather(*calls)
