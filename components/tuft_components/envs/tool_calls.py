"""Tool calls in what a model says, in the formats of the common chat templates.

- Hermes, Qwen 2.5 and 3, SmolLM: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any
  number of them, also a list in one;
- Qwen 3 Coder and 3.5: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function>…`;
- Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]NAME[ARGS]{…}`;
- Llama 3: the text is `{"name": …, "parameters": {…}}`, after `<|python_tag|>` or without it.

A tokenizer may tell its own format (transformers' `response_template`): `with_calls_in_tags` writes
what it finds as Hermes does, so that environments need to know one format only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>\s*|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
# Special tokens are not in the text that environments get: without them it is `NAME{…}`.
_NAMED = re.compile(r"\s*([A-Za-z_][\w.-]*)(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?\s*(?=\{)")
_PYTHON_TAG = "<|python_tag|>"
_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_NUMERIC = ("integer", "number")
_RIGHT = 'a tool call is {"name": …, "arguments": {…}}'


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """What the policy said: plain content, calls, and what is wrong with a call, if something is.

    Where `error` is not empty, there are no calls: either all of them are good, or none is done.
    """

    content: str
    calls: Sequence[ToolCall] = ()
    error: str = ""


def parse_tool_calls(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> Said:
    """The calls in a text. With `tools` (JSON schemas), their names and arguments are checked."""
    content, found = _split(text)
    try:
        calls = [call for part in found for call in _calls(part, tools)]
        for call in calls:
            _check(call, tools)
    except ValueError as error:
        return Said(content, error=str(error))
    return Said(content, calls)


def _split(text: str) -> tuple[str, list[str]]:
    """The content, and the parts that are calls."""
    tagged = _TAGGED.findall(text)
    if tagged:
        return _TAGGED.sub("", text).strip(), tagged
    for mark in (_MISTRAL, _PYTHON_TAG):
        before, found, behind = text.partition(mark)
        if found:
            return before.strip(), behind.split(mark)
    bare = text.strip()
    named = _NAMED.match(bare)
    if _is_call(_json_or_none(bare)) or (named and _json_or_none(bare[named.end() :])):
        return "", [bare]
    return bare, []


def _is_call(value: object) -> bool:
    """Without marks around it, JSON is a call if it has the keys of one."""
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return False
    return "function" in first or ("name" in first and bool({"arguments", "parameters"} & {*first}))


def _json_or_none(text: str) -> object:
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _calls(part: str, tools: Sequence[Mapping[str, Any]]) -> Iterator[ToolCall]:
    """Raises:
    ValueError: it is no call.
    """
    functions = _FUNCTION.findall(part)
    if functions:
        for name, body in functions:
            yield ToolCall(name.strip(), _parameters(body, _parameters_of(tools, name.strip())))
        return
    named = _NAMED.match(part)
    if named:
        yield ToolCall(named[1], _object(_json(part[named.end() :])))
        return
    value = _json(part)
    for call in value if isinstance(value, list) else [value]:
        yield _call(call)


def _json(text: str) -> object:
    try:
        return json.JSONDecoder().raw_decode(text.strip())[0]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the tool call is not valid JSON: {error}") from error


def _call(value: object) -> ToolCall:
    call = _object(value)
    function = call.get("function", call)
    function = function if isinstance(function, dict) else {"name": function}
    arguments = function.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):  # as OpenAI has them
        arguments = _json(arguments)
    name = function.get("name")
    if not isinstance(name, str):
        return ToolCall("", {})
    return ToolCall(name, _object(arguments))


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(_RIGHT)  # noqa: TRY004  # it is about what the policy wrote
    return value


def _parameters(body: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Written as text: read as JSON where the schema wants something else than a text."""
    parameters: dict[str, Any] = {}
    for key, value in _PARAMETER.findall(body):
        kind = properties.get(key, {}).get("type", "string")
        parameters[key] = value if kind == "string" else _json(value)
    return parameters


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function: Mapping[str, Any] = tool.get("function", tool)
    return function


def _parameters_of(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    for tool in tools:
        if _function(tool)["name"] == name:
            properties: Mapping[str, Any] = (
                _function(tool).get("parameters", {}).get("properties", {})
            )
            return properties
    return {}


def _check(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> None:
    """Raises:
    ValueError: there is no such tool, or its arguments are others.
    """
    names = [_function(tool)["name"] for tool in tools]
    if not call.name:
        raise ValueError(_RIGHT)
    if not tools:
        return
    if call.name not in names:
        raise ValueError(f"there is no tool {call.name!r}; there are: {', '.join(names)}")
    schema = _function(tools[names.index(call.name)]).get("parameters", {})
    properties = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in call.arguments]
    if missing:
        raise ValueError(f"the call of {call.name} lacks {', '.join(missing)}")
    for name, value in call.arguments.items():
        if name not in properties:
            there = ", ".join(properties) or "nothing"
            raise ValueError(f"{call.name} takes no {name!r}; it takes: {there}")
        kind = properties[name].get("type")
        right = _KINDS.get(kind, (object,)) if isinstance(kind, str) else (object,)
        if not isinstance(value, right) or (isinstance(value, bool) and kind in _NUMERIC):
            raise ValueError(f"{name} of {call.name} is {value!r}: it must be of type {kind}")


def with_calls_in_tags(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    tokens: Sequence[int],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """What the policy said, without special tokens, its tool calls in `<tool_call>` tags.

    Where the tokenizer has a `response_template`, that finds them. Marks that are special tokens
    stay in the text otherwise, since `parse_tool_calls` needs them.
    """
    if getattr(tokenizer, "response_template", None) is not None:
        with suppress(ValueError):  # what it can't read stays as it was said
            return _in_tags(
                tokenizer.parse_response(list(tokens), prefix=list(prompt), tools=list(tools))
            )
    text = str(tokenizer.decode(list(tokens)))
    for special in tokenizer.all_special_tokens:
        if special not in (_MISTRAL, _PYTHON_TAG, "[ARGS]", "[CALL_ID]"):
            text = text.replace(special, "")
    return text


def _in_tags(said: Mapping[str, Any]) -> str:
    calls = [json.dumps(call["function"]) for call in said.get("tool_calls") or ()]
    tagged = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    return "\n".join(filter(None, [said.get("content") or "", *tagged]))
