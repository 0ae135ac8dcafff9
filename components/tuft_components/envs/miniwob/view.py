"""What a page shows, as text, and what can be done with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tuft_components.envs.miniwob.actions import Action

Item = Mapping[str, Any]
MOST_ACTIONS = 100


def listed(items: Sequence[Item]) -> str:
    """A line for each element: `[3] button "Submit"`."""
    return "\n".join(_line(item) for item in items)


def _line(item: Item) -> str:
    if not item["ref"]:
        return str(item["text"])
    words = [f"[{item['ref']}]", item["tag"]]
    if item["kind"] == "check":
        words.append("[x]" if item["checked"] else "[ ]")
    words += [f'"{item[name]}"' for name in ("label", "text") if item.get(name)]
    if item["kind"] == "field":
        words.append(f'value="{item["value"]}"')
    if item["kind"] == "select":
        words.append(f"chosen: {', '.join(item['chosen'])}; of: {', '.join(item['options'])}")
    if item.get("looks"):
        words.append(item["looks"])
    if item.get("focused"):
        words.append("(focused)")
    return " ".join(words)


def said(items: Sequence[Item]) -> str:
    """Only what is no action by itself: for where the actions are listed anyway."""
    return "\n".join(str(item["text"]) for item in items if item["kind"] == "plain")


def typable(utterance: str, fields: Sequence[str]) -> list[str]:
    """Texts that a task may want typed: what it quotes, its fields, and its numbers."""
    quoted = re.findall(r'"([^"]+)"', utterance)
    numbers = re.findall(r"\b\d[\d/:.]*\b(?: [AP]M\b)?", re.sub(r'"[^"]*"', "", utterance))
    return list(dict.fromkeys([*quoted, *fields, *numbers]))


def by_reference(items: Sequence[Item], texts: Sequence[str]) -> list[str]:
    """As `actions.parse` takes them. Where nothing is made to be clicked, anything may be."""
    return [_written(action) for _, action in _possible(items, texts)]


def _written(action: Action) -> str:
    (number,) = action.numbers
    return f"{action.verb}[{number}, {action.text}]" if action.text else f"{action.verb}[{number}]"


def by_name(items: Sequence[Item], texts: Sequence[str]) -> dict[str, Action]:
    """Short descriptions of the actions, to choose from; equal ones are numbered."""
    possible = _possible(items, texts)
    often = Counter(name for name, _ in possible)
    seen: Counter[str] = Counter()
    named = {}
    for name, action in possible:
        seen[name] += 1
        named[f"{name} ({seen[name]})" if often[name] > 1 else name] = action
    return named


def _possible(items: Sequence[Item], texts: Sequence[str]) -> list[tuple[str, Action]]:
    made_for_it = [item for item in items if item["kind"] != "plain"]
    found: list[tuple[str, Action]] = []
    for item in made_for_it or [item for item in items if item["ref"]]:
        name = _name(item)
        number = (item["ref"],)
        if item["kind"] == "field":
            found += [(f'type "{text}" in {name}', Action("type", number, text)) for text in texts]
        if item["kind"] == "select":
            options = [option for option in item["options"] if option]
            found += [(f"select {option}", Action("select", number, option)) for option in options]
        elif item["kind"] != "field" or not texts:  # typing clicks it first
            found.append((f"click {name}", Action("click", number)))
    return found[:MOST_ACTIONS]


def _name(item: Item) -> str:
    parts = ("label", "text", "value", "looks")
    name = next((str(item[part]) for part in parts if item.get(part)), str(item["tag"]))
    return f"[x] {name}" if item.get("checked") else name
