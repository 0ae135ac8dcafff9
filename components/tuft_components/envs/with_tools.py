"""A base for environments with tools: parsed calls come in, and tool messages go out.

class Mine(WithTools):
    def begin(self, task: Task) -> str | Sequence[Message]: ...
    @tool
    def add(self, a: int, b: int) -> int:
        \"\"\"The sum of two numbers.\"\"\"
    def answered(self, text: str) -> Turn: ...
"""

from __future__ import annotations

import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from tuft_components.envs.base import Message, Task, Turn
from tuft_components.envs.tool_calls import ToolCall, parse_tool_calls

F = TypeVar("F", bound=Callable[..., Any])
_JSON_TYPES: Mapping[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
}
_ARGUMENT = re.compile(r"^\s+(\w+): (.+)$", re.MULTILINE)


def tool(method: F) -> F:
    """Marks a method as a tool. Its schema follows from its signature and its docstring, where
    lines `name: what it is` tell about arguments. What it raises as ValueError is told."""
    method.__tuft_tool__ = True  # type: ignore[attr-defined]
    return method


def schema_of(method: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of a function, as chat templates take it.

    Raises:
        TypeError: an argument is of another type than str, int, float or bool.
    """
    described, hints = inspect.getdoc(method) or "", get_type_hints(method)
    told = dict(_ARGUMENT.findall(described))
    properties, required = {}, []
    for name, parameter in inspect.signature(method).parameters.items():
        if name == "self":
            continue
        if hints.get(name) not in _JSON_TYPES:
            raise TypeError(
                f"argument {name} of the tool {method.__name__}: give str, int, "
                "float or bool as its type"
            )
        properties[name] = {"type": _JSON_TYPES[hints[name]], "description": told.get(name, name)}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    return {
        "type": "function",
        "function": {
            "name": method.__name__,
            "description": described.split("\n\n")[0],
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }


class WithTools(ABC):
    """One turn is a call, or several, or an answer in plain text.

    A call that can't be read, or that fails, is answered with what is wrong, and nothing changes.
    """

    def __init__(self) -> None:
        methods = [getattr(type(self), name) for name in vars(type(self))]
        self._methods = {m.__name__: m for m in methods if hasattr(m, "__tuft_tool__")}
        self.tools: Sequence[Mapping[str, Any]] = [schema_of(m) for m in self._methods.values()]

    @abstractmethod
    def begin(self, task: Task) -> Turn:
        """The task's first turn; its observation is chat messages."""

    @abstractmethod
    def answered(self, text: str) -> Turn:
        """The policy said a text, without a call."""

    async def reset(self, task: Task) -> Turn:
        return self.begin(task)

    async def step(self, action: str) -> Turn:
        said = parse_tool_calls(action, self.tools)
        if said.error:
            return Turn([_result("", {"error": said.error})], error=said.error)
        if not said.calls:
            return self.answered(said.content)
        results, errors = [], []
        for call in said.calls:
            try:
                results.append(_result(call.name, self._called(call)))
            except ValueError as error:
                results.append(_result(call.name, {"error": str(error)}))
                errors.append(f"{call.name}: {error}")
        return Turn(results, error="; ".join(errors), info={"calls": len(results)})

    def _called(self, call: ToolCall) -> Any:
        return self._methods[call.name](self, **call.arguments)


def _result(name: str, value: Any) -> Message:
    """The message of a tool; texts as they are, everything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {"role": "tool", "content": text, **({"name": name} if name else {})}
