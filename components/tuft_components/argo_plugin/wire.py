"""Argo's request and reply of `template.execute`, as Argo 4.1 sends and reads them.

pkg/plugins/executor/template_executor_plugin.go and workflow/executor/agent.go of argo-workflows
say what they are. A request has the whole template, of which only what is below matters here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue, ValidationError

PLUGIN_NAME = "tuft"
"""The key below `plugin` of a template that is ours."""

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Error"]

# A message is in the workflow's status, which is an object of a megabyte at most.
_MESSAGE_CHARACTERS = 5_000


class BadRequest(ValueError):
    """What came is no request of Argo's; the message says what is wrong."""


class _Metadata(BaseModel):
    uid: str = ""


class _Workflow(BaseModel):
    metadata: _Metadata


class _Parameter(BaseModel):
    name: str
    value: JsonValue = None


class _Inputs(BaseModel):
    parameters: list[_Parameter] = []


class _Template(BaseModel):
    name: str = ""
    inputs: _Inputs = Field(default_factory=_Inputs)
    plugin: dict[str, JsonValue] | None = None


class _Request(BaseModel):
    workflow: _Workflow
    template: _Template


@dataclass(frozen=True)
class Asked:
    """A template that is ours: what stands below `plugin.tuft`, and whose it is."""

    workflow_uid: str
    template: str
    inputs: dict[str, Any]
    content: JsonValue


@dataclass(frozen=True)
class Reply:
    """What Argo is told about the node. An unfinished one is asked for again after `requeue_s`."""

    phase: Phase
    message: str
    parameters: dict[str, str]
    exit_code: int | None = None
    requeue_s: int = 0

    def body(self) -> dict[str, Any]:
        node: dict[str, Any] = {"phase": self.phase, "message": _short(self.message)}
        outputs: dict[str, Any] = {}
        if self.parameters:
            outputs["parameters"] = [
                {"name": name, "value": value} for name, value in self.parameters.items()
            ]
        if self.exit_code is not None:
            outputs["exitCode"] = str(self.exit_code)  # `lastRetry.exitCode` in retry expressions
        if outputs:
            node["outputs"] = outputs
        body: dict[str, Any] = {"node": node}
        if self.requeue_s:
            # Argo would ask again for a node that has failed, if the reply to it had this.
            body["requeue"] = f"{self.requeue_s}s"
        return body


NOT_MINE: dict[str, Any] = {}
"""The reply to a template of another plugin."""


def parse(body: bytes) -> Asked | None:
    """What is asked; None where the template is another plugin's.

    Raises:
        BadRequest: it is no request of Argo's.
    """
    try:
        request = _Request.model_validate_json(body)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}"
            for item in error.errors()
        )
        raise BadRequest(f"no request of template.execute: {'; '.join(problems)}") from error
    template = request.template
    if template.plugin is None or PLUGIN_NAME not in template.plugin:
        return None
    if not request.workflow.metadata.uid:
        raise BadRequest(
            "workflow.metadata.uid is missing: it tells the steps of one workflow from another's. "
            "Argo 3.4 and newer send it"
        )
    return Asked(
        workflow_uid=request.workflow.metadata.uid,
        template=template.name,
        inputs={item.name: item.value for item in template.inputs.parameters},
        content=template.plugin[PLUGIN_NAME],
    )


def _short(message: str) -> str:
    if len(message) <= _MESSAGE_CHARACTERS:
        return message
    return message[:_MESSAGE_CHARACTERS] + "…"
