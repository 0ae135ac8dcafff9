"""Parameters of a ready pipeline: those of its steps, under their names.

A pipeline has no definitions of its own where a step has one: type, default, limits and
description of `learning_rate` are those of the step `update`. What a parameter of the pipeline is
set to goes to every step with a parameter of that name.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from tuft_components.steps import load_step
from tuft_pipelines.errors import WrongArgument

Renamed = Mapping[tuple[str, str], str]
"""(step, its parameter) → the pipeline's parameter, where the names differ."""

# What the pipeline itself decides for each task, or leaves as the step has it.
_WIRED = frozenset(
    {
        *("run_id", "policy", "policy_version", "policy_name", "step_key"),
        *("iteration", "first_iteration", "shard", "shards", "trajectories_uris"),
        *("checkpoint", "checkpoint_name"),
        *("policy_before", "reward_before", "checkpoint_before"),
        *("work_uri", "title", "timeout_s"),
    }
)


class Parameters:
    """`fields` are all; `shown` those that can be set, in that order (None: all)."""

    def __init__(self, fields: Mapping[str, FieldInfo], shown: Sequence[str] | None = None) -> None:
        self.fields = dict(fields)
        names = list(fields) if shown is None else list(shown)
        required = [name for name in names if fields[name].is_required()]
        self.shown = [*required, *(name for name in names if name not in required)]

    def only(self, *names: str) -> Parameters:
        """These can be set; the others have their defaults."""
        return Parameters(self.fields, names)

    def default(self, name: str) -> Any:
        """As KFP carries it."""
        return _default(self.fields[name])

    def signature(self) -> inspect.Signature:
        """Of a KFP pipeline function."""
        return inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    annotation=_kfp_type(self.fields[name]),
                    default=inspect.Parameter.empty
                    if self.fields[name].is_required()
                    else self.default(name),
                )
                for name in self.shown
            ]
        )

    def docstring(self, summary: str) -> str:
        """As KFP reads descriptions of parameters from it."""
        lines = [f"    {name}: {self.fields[name].description}" for name in self.shown]
        return "\n".join([summary, "", "Args:", *lines, ""])

    def parse(self, settings: Sequence[str]) -> dict[str, Any]:
        """Values from texts `NAME=VALUE`, checked, as KFP carries them.

        Raises:
            WrongArgument: naming each setting that is wrong, and what would be right.
        """
        values: dict[str, str] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise WrongArgument(f"{setting!r}: write NAME=VALUE")
            values[name] = text
        return self.check(values)

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, of the right types, as KFP carries them.

        Raises:
            WrongArgument: naming each that is wrong or missing.
        """
        if unknown := sorted(set(values) - set(self.shown)):
            raise WrongArgument(
                f"no parameter {', '.join(unknown)}; there are: {', '.join(sorted(self.shown))}"
            )
        checked = checked_model(_model(self.fields, self.shown), values, "parameter")
        return {name: _carried(self.fields[name], getattr(checked, name)) for name in values}


def checked_model(model: type[BaseModel], values: Mapping[str, Any], what: str) -> BaseModel:
    """`model` of these values.

    Raises:
        WrongArgument: naming each that is wrong or missing, as a `what`.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            message = item["msg"].removeprefix("Value error, ")
            if not item["loc"]:  # of all together
                lines.append(message)
                continue
            name = str(item["loc"][0])
            if item["type"] == "extra_forbidden":
                known = ", ".join(model.model_fields) or "none"
                lines.append(f"no {what} {name}; there are: {known}")
                continue
            given = "" if item["type"] == "missing" else f" (not {item['input']!r})"
            description = model.model_fields[name].description
            lines.append(f"{what} {name}: {message}{given}. {description}")
        raise WrongArgument("\n".join(lines)) from error


def gathered(
    own: type[BaseModel],
    steps: Sequence[str],
    renamed: Renamed | None = None,
    decided: Sequence[str] = (),
) -> Parameters:
    """The fields of `own`, and then those of the steps that it does not have.

    Args:
        own: what is the pipeline's own, and what has another default or description there.
        steps: of those with a parameter of the same name, the first one defines it.
        decided: further parameters that the pipeline itself decides.
    """
    fields = dict(own.model_fields)
    for step in steps:
        for name, field in load_step(step).params.model_fields.items():
            here = (renamed or {}).get((step, name), name)
            if here not in fields and name not in _WIRED and name not in decided:
                fields[here] = field
    return Parameters(fields)


def passed_on(
    parameters: Parameters, channels: Mapping[str, Any], step: str, renamed: Renamed
) -> dict[str, Any]:
    """Arguments of a task of that step, from the values of the pipeline's parameters.

    A parameter that can't be set is passed where its default is not the step's.
    """
    arguments = {}
    for name, field in load_step(step).params.model_fields.items():
        here = renamed.get((step, name), name)
        if here in channels:
            arguments[name] = channels[here]
        elif here in parameters.fields:
            default = parameters.default(here)
            if field.is_required() or default != _default(field):
                arguments[name] = default
    return arguments


def _model(fields: Mapping[str, FieldInfo], shown: Sequence[str]) -> type[BaseModel]:
    definitions: dict[str, Any] = {name: (fields[name].annotation, fields[name]) for name in shown}
    return create_model("Parameters", __config__=ConfigDict(extra="forbid"), **definitions)


def plain_type(field: FieldInfo) -> str:
    """For people: what a value must be."""
    if get_origin(field.annotation) in (dict, list):
        return "JSON object" if get_origin(field.annotation) is dict else "JSON list"
    if choices := [value for value in get_args(field.annotation) if isinstance(value, str)]:
        return " | ".join(choices)
    return getattr(field.annotation, "__name__", str(field.annotation))


def _kfp_type(field: FieldInfo) -> Any:
    annotation = field.annotation
    if get_origin(annotation) is list:
        return list[str]
    return annotation if annotation in (bool, int, float) else str


def _carried(field: FieldInfo, value: Any) -> Any:
    """The value as KFP has it: JSON objects are texts."""
    return json.dumps(value) if get_origin(field.annotation) is dict else value


def _default(field: FieldInfo) -> Any:
    return _carried(field, field.get_default(call_default_factory=True))
