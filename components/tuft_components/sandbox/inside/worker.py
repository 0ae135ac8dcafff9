"""Holds the code that is tested, and calls its functions when it is asked to.

It knows neither the tests nor what they expect: those are in another process.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from plain import decode, encode  # type: ignore[import-not-found]  # beside it

_OPERATIONS: dict[str, Callable[..., object]] = {
    "get": getattr,
    "set": setattr,
    "item": lambda target, key: target[key],
    "put": lambda target, key, value: target.__setitem__(key, value),
    "len": len,
    "in": lambda target, value: value in target,
    "text": str,
    "list": lambda target: list(islice(target, 100_000)),
}


def main() -> None:
    requests = os.fdopen(int(sys.argv[1]))
    replies = os.fdopen(int(sys.argv[2]), "w")
    objects: list[object] = []

    def keep(value: object) -> int:
        objects.append(value)
        return len(objects) - 1

    def say(reply: tuple[Any, ...]) -> None:
        try:
            line = encode(reply, keep)
        except Exception as error:  # noqa: BLE001  # an object of the code may raise anything
            line = encode(("raised", "TypeError", str(error)[:200]), keep)
        replies.write(line + "\n")
        replies.flush()

    try:
        names = _load()
    except BaseException as error:  # noqa: BLE001  # SystemExit, too
        say(_raised(error))
        return
    say(("names", names))
    for line in requests:
        number, operation, args, named = decode(line, objects.__getitem__)
        try:
            target: Any = objects[number]
            do = target if operation == "call" else partial(_OPERATIONS[operation], target)
            say(("value", do(*args, **named)))
        except BaseException as error:  # noqa: BLE001
            say(_raised(error))


def _raised(error: BaseException) -> tuple[str, str, str]:
    return ("raised", type(error).__name__, str(error)[:200])


def _load() -> dict[str, object]:
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    with open("solution.py") as file:
        code = compile(file.read(), "solution.py", "exec")
    exec(code, module.__dict__)  # noqa: S102  # what the sandbox is for
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("__") and not isinstance(value, types.ModuleType)
    }


main()
