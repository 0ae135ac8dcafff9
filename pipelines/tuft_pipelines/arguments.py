"""Arguments of a pipeline from a command line: NAME=VALUE texts, checked against the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuft_pipelines.errors import WrongArgument


def pipeline_parameters(pipeline: Any) -> dict[str, Any]:
    """Name → default of each parameter of a compiled pipeline function."""
    inputs = pipeline.component_spec.inputs or {}
    return {name: spec.default for name, spec in inputs.items()}


def parse_arguments(pipeline: Any, settings: Sequence[str]) -> dict[str, Any]:
    """Values of the pipeline's own types from texts `NAME=VALUE`.

    Raises:
        WrongArgument: naming the setting, and what would be right.
    """
    specs = pipeline.component_spec.inputs or {}
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise WrongArgument(f"{setting!r}: write NAME=VALUE")
        if name not in specs:
            raise WrongArgument(f"no parameter {name!r}; there are: {', '.join(sorted(specs))}")
        parse = _PARSERS.get(specs[name].type)
        if parse is None:
            raise WrongArgument(f"parameter {name} is a {specs[name].type}; it can't be set here")
        try:
            values[name] = parse(text)
        except (ValueError, KeyError):
            kind = _KINDS[specs[name].type]
            raise WrongArgument(f"parameter {name} is {kind}, which {text!r} is not") from None
    return values


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "String": str,
    "Integer": int,
    "Float": float,
    "Boolean": _boolean,
}
_KINDS: Mapping[str, str] = {
    "String": "a text",
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
}
