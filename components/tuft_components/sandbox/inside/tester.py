"""Runs tests against code that is in another process, and says of each what was wrong with it.

The code can end itself, loop, or flood, which costs it tests. It can't pass one that it does not
pass: what is compared, and with what, is here.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from plain import LONGEST, decode, encode  # type: ignore[import-not-found]  # beside it

_START_S = 2.0
"""Python's own start, on a machine that has much to do."""


class Failed(Exception):
    """What the code did instead of answering."""


class Worker:
    """The code's process; a new one takes over where it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ask = self._told = -1
        self._rest = b""
        self.broken = ""
        self.deadline = 0.0
        self.names: dict[str, object] = {}

    def begin(self, seconds: float) -> None:
        """Ready for the next test, which gets this time."""
        self.deadline = time.monotonic() + seconds
        if self.broken:
            raise Failed(self.broken)
        if self._process is None:
            try:
                self.deadline += _START_S
                self._start()
                self.deadline = time.monotonic() + seconds
            except Exception as error:
                self.broken = described(error)  # it would be again, each time
                raise

    def _start(self) -> None:
        there, self._ask = os.pipe()
        self._told, back = os.pipe()
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-s", "worker.py", str(there), str(back)],
            pass_fds=(there, back),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(there)
        os.close(back)
        self.names = self._answer("names")

    def stop(self) -> None:
        if self._process is None:
            return
        end(self._process)
        os.close(self._ask)
        os.close(self._told)
        self._process = None

    def ask(
        self,
        number: int,
        operation: str,
        args: Sequence[object] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        line = encode((number, operation, tuple(args), named or {}), _number_of)
        if self._process is None:
            raise Failed("the code ended itself")
        try:
            os.write(self._ask, line.encode() + b"\n")
        except BrokenPipeError:
            self.stop()
            raise Failed("the code ended itself") from None
        return self._answer("value")

    def _answer(self, wanted: str) -> Any:
        try:
            reply = decode(self._line(), lambda number: Remote(self, number))
            kind, *rest = reply
        except (ValueError, TypeError) as error:
            self.stop()
            raise Failed(f"the code's answer can't be read: {error}") from None
        if kind == "raised":
            if wanted == "names":
                self.stop()
            raise _exception(*rest)
        return rest[0]

    def _line(self) -> str:
        while b"\n" not in self._rest:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self._told], [], [], left)[0]:
                self.stop()
                raise Failed("it took too long")
            part = os.read(self._told, 65_536)
            if not part or len(self._rest) > 2 * LONGEST:
                self.stop()
                raise Failed("the code ended itself")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")


class Remote:
    """An object of the code. It can be called and looked into, but compares with nothing: the code
    would say itself what it equals."""

    __slots__ = ("_number", "_worker")
    __hash__ = None  # type: ignore[assignment]  # it is what it equals that would count
    _worker: Worker
    _number: int

    def __init__(self, worker: Worker, number: int) -> None:
        object.__setattr__(self, "_worker", worker)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: object, **named: object) -> Any:
        return self._worker.ask(self._number, "call", args, named)

    def __getattr__(self, name: str) -> Any:
        return self._worker.ask(self._number, "get", [name])

    def __setattr__(self, name: str, value: object) -> None:
        self._worker.ask(self._number, "set", [name, value])

    def __getitem__(self, key: object) -> Any:
        return self._worker.ask(self._number, "item", [key])

    def __setitem__(self, key: object, value: object) -> None:
        self._worker.ask(self._number, "put", [key, value])

    def __contains__(self, value: object) -> bool:
        found: object = self._worker.ask(self._number, "in", [value])
        return found is True

    def __len__(self) -> int:
        return int(self._worker.ask(self._number, "len"))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._worker.ask(self._number, "list"))

    def __str__(self) -> str:
        return str(self._worker.ask(self._number, "text"))

    def __bool__(self) -> NoReturn:
        raise TypeError("the code gave an object, not True or False")

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("the code gave an object: compare what is in it")


def _number_of(value: object) -> int:
    if isinstance(value, Remote):
        number: int = object.__getattribute__(value, "_number")
        return number
    raise TypeError(f"tests can hand over plain values only, not a {type(value).__name__}")


def _exception(name: str, text: str) -> Exception:
    """As the code raised it, where that is one of Python's own."""
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:
            pass
    return Failed(f"{name}: {text}")


def described(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, Failed):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:200]


def end(process: subprocess.Popen[Any]) -> None:
    """With what it started, as far as that stayed in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def check(test: str | dict[str, str], worker: Worker, seconds: float) -> None:
    """One test: statements that raise where something is wrong, or a program's input and output."""
    if not isinstance(test, str):
        check_program(test, seconds)
        return
    worker.begin(seconds)
    space = {"__name__": "tests", **worker.names}
    exec(compile(ast.parse(test), "test", "exec"), space)  # noqa: S102  # a test of the task


def check_program(test: dict[str, str], seconds: float) -> None:
    with open("input", "w") as file:
        file.write(test["input"])
    with open("input") as source, open("output", "w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-s", "solution.py"],
            stdin=source,
            stdout=sink,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed("it took too long") from None
        finally:
            end(process)
    with open("output", errors="replace") as file:
        said = file.read(LONGEST)
    if _lines(said) != _lines(test["output"]):
        raise Failed(f"it printed {said[:100]!r}, not {test['output'][:100]!r}")
    if status:
        raise Failed(f"it ended with status {status}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def main() -> None:
    # What the code leaves in its folder must not be imported here.
    sys.path.remove(os.getcwd())
    asked = json.load(sys.stdin)
    worker = Worker()
    for number, test in enumerate(asked["tests"]):
        wrong = ""
        try:
            check(test, worker, asked["test_s"])
        except Exception as error:  # noqa: BLE001  # whatever a test raises is what is wrong
            wrong = described(error)
        sys.stdout.write(json.dumps([number, wrong]) + "\n")
        sys.stdout.flush()
    worker.stop()


main()
