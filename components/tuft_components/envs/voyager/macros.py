"""Macro actions, `mine(oak_log)` say, as the skill code that does them."""

from __future__ import annotations

import re

MACROS = {
    "mine": "await mineBlock(bot, '{name}', {count})",
    "craft": "await craftItem(bot, '{name}', {count})",
    "place": "await placeItem(bot, '{name}')",
    "smelt": "await smeltItem(bot, '{name}', null, {count})",
}
MOST = 16
USAGE = "say mine(block), craft(item), place(item) or smelt(item), such as mine(oak_log)"
_MACRO = re.compile(r"\s*([a-z]+)\(\s*([a-z0-9_]{1,64})\s*(?:,\s*(\d{1,3})\s*)?\)")


def code_of(action: str) -> str | None:
    """The code of the action's first line, if it is a macro."""
    found = _MACRO.match(action)
    if found is None or found[1] not in MACROS:
        return None
    count = min(max(int(found[3] or 1), 1), MOST)
    return MACROS[found[1]].format(name=found[2], count=count)
