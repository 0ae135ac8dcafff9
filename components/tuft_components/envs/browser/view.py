"""What BrowserGym sees of a page, as text, and what can be done with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any

from browsergym.core.action import functions
from browsergym.core.env import BrowserEnv
from browsergym.utils.obs import flatten_axtree_to_str

MOST_ACTIONS = 100
_CLICKED = ("button", "link", "checkbox", "radio", "switch", "tab", "menuitem", "treeitem")
_TYPED = ("textbox", "searchbox", "spinbutton")
_ACTED = (*_CLICKED, *_TYPED, "combobox", "listbox")
_SKIPPED = ("InlineTextBox", "ListMarker", "StaticText ''", "LineBreak")
_TEXTS = ("heading", "StaticText", "cell", "gridcell", "columnheader", "status", "LabelText")
_LINE = re.compile(
    r"(?P<indent>\t*)(?:\[(?P<bid>\w+)\] )?(?P<role>\w+) '(?P<name>.*?)'(?P<rest>(?: value=| ?,).*|)$"
)


@dataclass(frozen=True)
class Node:
    """A line of the accessibility tree."""

    depth: int
    bid: str
    role: str
    name: str
    rest: str


class Shown:
    """A page, and the goal of the task on it."""

    def __init__(self, seen: Mapping[str, Any], goal: str) -> None:
        self._goal = goal
        text = flatten_axtree_to_str(seen["axtree_object"], seen["extra_element_properties"])
        lines = [line for line in text.splitlines() if not line.strip().startswith(_SKIPPED)]
        self._lines = [re.sub(r", url='[^']*'", "", line) for line in lines]

    def listed(self) -> str:
        """BrowserGym's text of the accessibility tree, without what says nothing."""
        return "\n".join(self._lines)

    @cached_property
    def nodes(self) -> list[Node]:
        """Those that say something or can be acted on."""
        found = [_LINE.match(line) for line in self._lines]
        return [
            Node(len(one["indent"]), one["bid"] or "", one["role"], one["name"], one["rest"])
            for one in found
            if one is not None
        ]

    def said(self) -> str:
        """Its texts, rows of tables in a line each: for where the actions are listed anyway."""
        rows: list[list[str]] = []
        acted = {node.name for node in self.nodes if node.bid and node.role in _ACTED}
        in_row = -1
        for node in self.nodes:
            in_row = -1 if node.depth <= in_row else in_row
            if node.role == "row":
                rows.append([])
                in_row = node.depth
            elif node.role in _TEXTS and node.name.strip() and node.name not in acted:
                if in_row < 0 or not rows:
                    rows.append([])
                rows[-1].append(node.name)
            elif node.role in _TYPED:
                value = re.search(r" value='(.*?)'(?:,|$)", node.rest)
                rows += [[f"{node.name}: {value[1]}"]] if value and value[1] else []
        return "\n".join(" ".join(row) for row in rows if row)

    def by_name(self) -> dict[str, str]:
        """BrowserGym's actions by short descriptions to choose from; equal ones are numbered."""
        possible = self._possible()
        often = Counter(name for name, _ in possible)
        number: Counter[str] = Counter()
        named = {}
        for name, action in possible:
            number[name] += 1
            named[f"{name} ({number[name]})" if often[name] > 1 else name] = action
        return named

    def _possible(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        texts = list(dict.fromkeys(re.findall(r'"([^"]+)"', self._goal)))
        parent = ""
        for node in self.nodes:
            name = node.name.strip() or node.role
            if node.role in ("combobox", "listbox"):
                parent = node.bid
            elif node.role == "option" and parent and node.name.strip():
                chosen = "[x] " if "selected=True" in node.rest else ""
                found.append(
                    (f"select {chosen}{name}", f'select_option("{parent}", {_text(name)})')
                )
            elif node.role in _TYPED and node.bid:
                found += [
                    (f'fill {name} with "{text}"', f'fill("{node.bid}", {_text(text)})')
                    for text in texts or [""]
                ]
            elif node.role in _CLICKED and node.bid:
                state = "[x] " if re.search(r"checked='?(true|mixed)", node.rest) else ""
                found.append((f"click {state}{name}", f'click("{node.bid}")'))
        return found[:MOST_ACTIONS]


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def how(env: BrowserEnv) -> str:
    """Which actions there are, with what each needs."""
    written = []
    for name in env.action_mapping.__self__.action_set:
        parameters = signature(getattr(functions, name)).parameters.values()
        needed = [each.name for each in parameters if each.default is Parameter.empty]
        written.append(f"{name}({', '.join(needed)})")
    return f"Say {', '.join(written)}; texts and bids in quotes."


def short_error(error: str) -> str:
    """Without the log of what Playwright tried."""
    return error.partition("\nCall log")[0].strip()[:300]
