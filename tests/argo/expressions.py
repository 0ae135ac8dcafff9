"""The subset of expr-lang (https://expr-lang.org) that our manifests use.

Literals, members (`a.b`, `a?.b`, `a['b']`), calls, lists, `??`, arithmetic, `..`, comparisons, `in`,
`not`, `and`, `or`, and `c ? a : b`, with expr's precedences. What it does not know is an error.
Types are as strict as there: no number is made of a text unless asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Env = Mapping[str, Any]
Evaluate = Callable[[Env], Any]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<op>\?\?|\?\.|\.\.|==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]]))"
)
_BINARY = {
    **dict.fromkeys(("or", "||"), 10),
    **dict.fromkeys(("and", "&&"), 15),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 20),
    "..": 25,
    **dict.fromkeys(("+", "-"), 30),
    **dict.fromkeys(("*", "/", "%"), 60),
    "??": 500,
}
_NOT, _SIGN = 50, 90
_LITERALS = {"true": True, "false": False, "nil": None}


class ExpressionError(Exception):
    """The expression is wrong, or can't be evaluated."""


def evaluate(text: str, env: Env) -> Any:
    """The expression's value.

    Raises:
        ExpressionError: as Argo would say that it can't be evaluated.
    """
    parser = _Parser(text)
    tree = parser.ternary()
    parser.expect_end()
    return tree(env)


def _int(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError as error:
            raise ExpressionError(f"asInt({value!r})") from error
    return int(_number(value))


def _float(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError as error:
            raise ExpressionError(f"asFloat({value!r})") from error
    return float(_number(value))


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"{value!r} is no number")
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "asInt": _int,
    "asFloat": _float,
    "toJson": lambda value: json.dumps(value, separators=(",", ":")),
    "string": lambda value: value if isinstance(value, str) else json.dumps(value),
    "len": len,
}


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{value!r} is not true or false")
    return value


def _compare(op: str, left: Any, right: Any) -> bool:
    if not (isinstance(left, str) and isinstance(right, str)):
        left, right = _number(left), _number(right)
    return bool(
        {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]
    )


def _range(left: Any, right: Any) -> list[int]:
    if not (isinstance(left, int) and isinstance(right, int)):
        raise ExpressionError(f"{left!r}..{right!r}: give integers")
    return list(range(left, right + 1))


def _arithmetic(op: str, left: Any, right: Any) -> Any:
    if op == "+" and isinstance(left, str) and isinstance(right, str):
        return left + right
    a, b = _number(left), _number(right)
    if op in "/%" and b == 0:
        raise ExpressionError("division by zero")
    if op == "%" and not (isinstance(a, int) and isinstance(b, int)):
        raise ExpressionError(f"{a!r} % {b!r}: give integers")
    return (
        {"+": a + b, "-": a - b, "*": a * b}[op] if op in "+-*" else a / b if op == "/" else a % b
    )


def _member(value: Any, name: Any) -> Any:
    if value is None:
        raise ExpressionError(f"cannot fetch {name} from nil")
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list) and isinstance(name, int) and 0 <= name < len(value):
        return value[name]
    raise ExpressionError(f"cannot fetch {name} from {value!r}")


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise ExpressionError(f"{text!r}: what is {text[at:]!r}?")
            kind = match.lastgroup or ""
            self._tokens.append((kind, match.group(kind)))
            at = match.end()
        self._text = text
        self._at = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, symbol: str) -> bool:
        kind, text = self._peek()
        if kind in ("op", "name") and text == symbol:
            self._at += 1
            return True
        return False

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise ExpressionError(
                f"{self._text!r}: {symbol!r} is missing before {self._peek()[1]!r}"
            )

    def expect_end(self) -> None:
        if self._peek()[0] != "end":
            raise ExpressionError(f"{self._text!r}: what is {self._peek()[1]!r} here?")

    def ternary(self) -> Evaluate:
        condition = self._binary(0)
        if not self._take("?"):
            return condition
        yes = self.ternary()
        self._expect(":")
        no = self.ternary()
        return lambda env: yes(env) if _truth(condition(env)) else no(env)

    def _binary(self, least: int) -> Evaluate:
        left = self._unary()
        while True:
            kind, op = self._peek()
            if kind not in ("op", "name") or _BINARY.get(op, -1) < max(least, 0):
                return left
            self._next()
            left = _combined(op, left, self._binary(_BINARY[op] + 1))

    def _unary(self) -> Evaluate:
        if self._take("not") or self._take("!"):
            negated = self._binary(_NOT)
            return lambda env: not _truth(negated(env))
        if self._take("-"):
            value = self._binary(_SIGN)
            return lambda env: -_number(value(env))
        return self._postfix(self._primary())

    def _primary(self) -> Evaluate:
        kind, text = self._next()
        if kind == "number":
            number: int | float = float(text) if "." in text else int(text)
            return lambda _env: number
        if kind == "text":
            return lambda _env: text[1:-1]
        if kind == "name":
            return self._name(text)
        if text == "(":
            inner = self.ternary()
            self._expect(")")
            return inner
        if text == "[":
            items = self._until("]")
            return lambda env: [item(env) for item in items]
        raise ExpressionError(f"{self._text!r}: what is {text!r} here?")

    def _name(self, text: str) -> Evaluate:
        if text in _LITERALS:
            return lambda _env: _LITERALS[text]
        if self._take("("):
            if text not in FUNCTIONS:
                raise ExpressionError(f"{self._text!r}: no function {text} in this subset")
            arguments = self._until(")")
            return lambda env: FUNCTIONS[text](*(argument(env) for argument in arguments))

        def variable(env: Env) -> Any:
            if text not in env:
                raise ExpressionError(f"unknown name {text}")
            return env[text]

        return variable

    def _until(self, end: str) -> list[Evaluate]:
        items: list[Evaluate] = []
        while not self._take(end):
            if items:
                self._expect(",")
            items.append(self.ternary())
        return items

    def _postfix(self, value: Evaluate) -> Evaluate:
        while True:
            if self._take("."):
                value = _fetch(value, self._next()[1])
            elif self._take("?."):
                value = _fetch(value, self._next()[1], optional=True)
            elif self._take("["):
                key = self.ternary()
                self._expect("]")
                value = _at_key(value, key)
            else:
                return value


def _fetch(value: Evaluate, name: str, *, optional: bool = False) -> Evaluate:
    def fetch(env: Env) -> Any:
        found = value(env)
        return None if optional and found is None else _member(found, name)

    return fetch


def _at_key(value: Evaluate, key: Evaluate) -> Evaluate:
    return lambda env: _member(value(env), key(env))


def _combined(op: str, left: Evaluate, right: Evaluate) -> Evaluate:
    if op in ("or", "||"):
        return lambda env: _truth(left(env)) or _truth(right(env))
    if op in ("and", "&&"):
        return lambda env: _truth(left(env)) and _truth(right(env))
    if op == "??":
        return lambda env: found if (found := left(env)) is not None else right(env)
    if op == "in":
        return lambda env: left(env) in right(env)
    if op in ("==", "!="):
        return lambda env: (left(env) == right(env)) == (op == "==")
    if op == "..":
        return lambda env: _range(left(env), right(env))
    if op in ("<", "<=", ">", ">="):
        return lambda env: _compare(op, left(env), right(env))
    return lambda env: _arithmetic(op, left(env), right(env))
