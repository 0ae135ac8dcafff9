"""What stands in the messages: an observation's fields as a turn, and a turn as fields."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuft_components.envs.base import Message, Observation, Turn
from tuft_components.errors import BadData

OURS = "x-tuft"
"""Key of a schema where our server says what OpenEnv has no place for: `stop` and `tools`."""
TEXT = "text"
_ACTION_FIELDS = (TEXT, "message", "action", "content", "action_str", "command", "code", "answer")
_ACTIONS = ("actions", "legal_actions", "available_actions")
_ERRORS = ("error", "last_action_error")


@dataclass(frozen=True)
class Reading:
    """How observations become text.

    Args:
        field: only this one is shown, and its value alone; empty: all of them.
        without: fields that are not shown: screenshots, say.
        most_characters: the rest of a longer observation is cut off.
    """

    field: str = ""
    without: Sequence[str] = ()
    most_characters: int = 8000


def turn_of(data: Mapping[str, Any], reading: Reading) -> Turn:
    """What the server says, as a turn.

    Raises:
        BadData: it is not what the protocol says.
    """
    fields = data.get("observation")
    if isinstance(fields, str):
        fields = {TEXT: fields}
    reward, done = data.get("reward"), data.get("done", False)
    numeric = reward is None or isinstance(reward, (int, float))
    if not isinstance(fields, Mapping) or not numeric or not isinstance(done, bool):
        raise BadData(f"the OpenEnv server's answer is no observation: {_shown(data)}")
    info = data.get("metadata") or fields.get("metadata") or {}
    return Turn(
        _observation(fields, reading),
        reward=float(reward or 0.0),
        done=done,
        actions=_first_list(fields),
        error=next((fields[key] for key in _ERRORS if _is_text(fields.get(key))), ""),
        info=dict(info) if isinstance(info, Mapping) else {},
    )


def _observation(fields: Mapping[str, Any], reading: Reading) -> Observation:
    if reading.field:
        if reading.field not in fields:
            there = ", ".join(fields)
            raise BadData(f"the observation has no field {reading.field!r}; it has: {there}")
        return _cut(_value(fields[reading.field]), reading)
    messages = _messages(fields.get("messages"))
    if messages and not fields.get(TEXT):
        return messages
    if _is_text(fields.get(TEXT)) and OURS in fields:
        return _cut(fields[TEXT], reading)
    hidden = {"reward", "done", "metadata", OURS, *_ACTIONS, *reading.without}
    shown = {key: value for key, value in fields.items() if key not in hidden}
    said = {key: value for key, value in shown.items() if value not in (None, "", [], {})}
    if len(said) == 1:
        return _cut(_value(*said.values()), reading)
    return _cut("\n".join(f"{key}: {_value(value)}" for key, value in said.items()), reading)


def _messages(value: object) -> list[Message]:
    """The chat messages in it; empty where it is something else."""
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        return []
    if not all(_is_text(each.get("role")) and "content" in each for each in value):
        return []
    return [{key: str(text) for key, text in each.items() if text is not None} for each in value]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, reading: Reading) -> str:
    most = reading.most_characters
    return text if len(text) <= most else text[:most] + " […]"


def _first_list(fields: Mapping[str, Any]) -> tuple[str, ...]:
    for key in _ACTIONS:
        found = fields.get(key)
        if isinstance(found, list) and all(isinstance(each, (str, int)) for each in found):
            return tuple(map(str, found))
    return ()


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else text[:300] + "…"


def data_of(turn: Turn) -> dict[str, Any]:
    """A turn of ours, as `turn_of` reads it."""
    seen = turn.observation
    # JSON has no NaN and no infinity: null says that there is no reward.
    reward = float(turn.reward)
    return {
        "observation": {
            TEXT: seen if isinstance(seen, str) else "",
            "messages": [] if isinstance(seen, str) else [dict(each) for each in seen],
            "actions": list(turn.actions),
            "error": turn.error,
            OURS: True,
        },
        "reward": reward if math.isfinite(reward) else None,
        "done": turn.done,
        "metadata": dict(turn.info),
    }


@dataclass(frozen=True)
class ActionForm:
    """How the policy's text becomes the action: the value of `field`; empty: all of it, as JSON."""

    field: str
    type: str = "string"

    def data(self, text: str) -> dict[str, Any]:
        """Raises:
        ValueError: the text is no such value; the message tells the policy what would be right.
        """
        if not self.field:
            return dict(_read(text, dict, "a JSON object"))
        if self.type == "string":
            return {self.field: text}
        kinds = {"integer": (int, "a whole number"), "number": ((int, float), "a number")}
        kind, right = kinds.get(self.type, (object, f"JSON of the type {self.type}"))
        return {self.field: _read(text, kind, right)}


def _read(text: str, kind: Any, right: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"give {right}") from error
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
        raise ValueError(f"give {right}")
    return value


def action_form(schema: Mapping[str, Any], field: str | None) -> ActionForm:
    """How to fill the server's action; `field` is the user's choice, if there is one.

    Raises:
        ValueError: which field the text is can't be told, or there is no such field.
    """
    properties = {k: v for k, v in schema.get("properties", {}).items() if k != "metadata"}
    if field == "":
        return ActionForm("")
    if field is None:
        required = [name for name in schema.get("required", []) if name in properties]
        texts = [n for n in required or properties if properties[n].get("type") == "string"]
        alone = [*(required if len(required) == 1 else ()), *(texts if len(texts) == 1 else ())]
        known = [name for name in _ACTION_FIELDS if name in properties]
        if not alone and len(properties) != 1 and not known:
            raise ValueError(
                "give action_field: the field of the server's actions that the policy's text is, "
                f'or "" where the text is JSON of all. Fields: {", ".join(properties) or "unknown"}'
            )
        field = next(iter([*alone, *known, *properties]))
    elif properties and field not in properties:
        raise ValueError(f"actions have no field {field!r}; they have: {', '.join(properties)}")
    kind = properties.get(field, {}).get("type", "string")
    return ActionForm(field, kind if isinstance(kind, str) else "string")
