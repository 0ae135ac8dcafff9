"""Names that a template can refer to, and `{{name}}` and `{{=expression}}` in its texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.argo.expressions import ExpressionError, evaluate

_TAG = re.compile(r"\{\{(=?)(.*?)\}\}", re.DOTALL)

Scope = Mapping[str, str]
"""Dotted name → text, such as `steps.loop.outputs.parameters.policy`."""


class Unresolved(Exception):
    """A tag names what is not there: Argo ends the workflow with an error."""


def resolved(value: Any, scope: Scope) -> Any:
    """`value` (a part of a manifest) with every tag replaced, in texts at any depth.

    Raises:
        Unresolved: there is no such name, or its expression can't be evaluated.
    """
    if isinstance(value, str):
        return _TAG.sub(lambda match: _replacement(match, scope), value)
    if isinstance(value, Mapping):
        return {key: resolved(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, scope) for item in value]
    return value


def nested(scope: Scope) -> dict[str, Any]:
    """The scope as expressions see it: `a.b.c` is member c of member b of a."""
    tree: dict[str, Any] = {}
    for name, text in scope.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = text
    return tree


def _replacement(match: re.Match[str], scope: Scope) -> str:
    is_expression, body = match.groups()
    if is_expression:
        return expression_text(body, scope)
    name = body.strip()
    if name not in scope:
        raise Unresolved(f"{{{{{name}}}}} is not there")
    return scope[name]


def expression_text(expression: str, scope: Scope) -> str:
    """The value as text, as it stands in JSON but for texts.

    Raises:
        Unresolved: it can't be evaluated, or there is nothing.
    """
    try:
        value = evaluate(expression, nested(scope))
    except ExpressionError as error:
        raise Unresolved(f"{expression}: {error}") from error
    if value is None:
        raise Unresolved(f"{expression}: there is nothing")
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
