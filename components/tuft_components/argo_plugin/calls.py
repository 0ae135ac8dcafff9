"""What a plugin template asks for: which step, and with what.

plugin:
  tuft:
    step: update
    params: {run_id: "{{inputs.parameters.run_id}}", learning_rate: "3e-4"}
    inputs: {batch: "{{inputs.parameters.batch}}"}
    outputs: {}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tuft_components.argo.step_templates import value_text
from tuft_components.argo_plugin.wire import Asked
from tuft_components.errors import BadConfiguration
from tuft_components.steps import Html, Markdown, OutputKind, load_step

SERVICE_STEPS = ("start_run", "update", "evaluate", "promote")
"""Steps whose work the service does. The others do work of their own, which wants a pod."""

_OF_USERS = ("env", "reward")
"""Parameters that may name a user's own code."""


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    step: str = Field(min_length=1)
    params: dict[str, JsonValue] = {}
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


@dataclass(frozen=True)
class Call:
    """One execution of a step. Equal requests have the same `key`, and no others."""

    key: str
    step: str
    params: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    """Name → URI of what is to be kept."""

    def arguments(self) -> list[str]:
        """Of `tuft-step`. Pages that nobody keeps go into the step's folder, which goes away."""
        pages = {name: name for name in _pages(self.step) if name not in self.outputs}
        return [
            self.step,
            *(f"--param={name}={value}" for name, value in self.params.items()),
            *(f"--input={name}={uri}" for name, uri in self.inputs.items()),
            *(f"--output={name}={uri}" for name, uri in {**pages, **self.outputs}.items()),
        ]

    def output_parameters(self, printed: Mapping[str, Any]) -> dict[str, str]:
        """What a step printed, for Argo: values, metrics as JSON, and URIs of what was kept."""
        artifacts = {name for name, kind in _output_kinds(self.step).items() if kind == "artifact"}
        return {
            name: value_text(value["uri"] if name in artifacts else value)
            for name, value in printed.items()
            if name not in artifacts or name in self.outputs
        }


def read_call(asked: Asked) -> Call:
    """The call that a template means.

    Raises:
        BadConfiguration: it asks for what can't be.
    """
    content = _content_of(asked)
    if content.step not in SERVICE_STEPS:
        raise BadConfiguration(
            f"the plugin runs no step {content.step!r}: it runs {', '.join(SERVICE_STEPS)}. "
            "Other steps run in pods: use their templates of tuft-steps"
        )
    key = _key_of(asked, content)
    params = {name: _text(name, value) for name, value in content.params.items()}
    for name in _OF_USERS:
        if ":" in params.get(name, ""):
            raise BadConfiguration(
                f"{name}={params[name]}: code of your own runs in a pod, not in the plugin, where "
                "other workflows' keys are: use the template of tuft-steps, or a registered name"
            )
    if content.step == "start_run" and not (params.get("name") or params.get("step_key")):
        # Without either, the same request after a restart would make a second run.
        params["step_key"] = f"argo-{key}"
    return Call(key, content.step, params, _given(content.inputs), _given(content.outputs))


def _given(uris: Mapping[str, str]) -> dict[str, str]:
    """An empty one is none: a template can't leave one out."""
    return {name: uri for name, uri in uris.items() if uri}


def _output_kinds(step: str) -> dict[str, OutputKind]:
    return load_step(step).output_kinds()


def _pages(step: str) -> list[str]:
    """Artifacts for people only."""
    found = load_step(step)
    kinds = found.output_kinds()
    artifacts = [name for name, kind in kinds.items() if kind == "artifact"]
    return [name for name in artifacts if issubclass(found.output_type(name), Html | Markdown)]


def _content_of(asked: Asked) -> _Content:
    try:
        return _Content.model_validate(asked.content)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(("plugin", "tuft", *(str(part) for part in item["loc"])))
            message = item["msg"]
            if item["type"] == "extra_forbidden":
                message = f"unknown; there are: {', '.join(_Content.model_fields)}"
            lines.append(f"{where}: {message}")
        raise BadConfiguration("; ".join(lines)) from error


def _key_of(asked: Asked, content: _Content) -> str:
    """From the workflow, what is asked, and the inputs of the template: so an input that the step
    does not use tells apart two nodes that would be the same otherwise."""
    identity = {
        "workflow": asked.workflow_uid,
        "content": content.model_dump(),
        "inputs": asked.inputs,
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text(name: str, value: JsonValue) -> str:
    if value is None:
        raise BadConfiguration(f"plugin.tuft.params.{name} is null: give a value, or leave it out")
    return value_text(value)
