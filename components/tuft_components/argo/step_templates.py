"""The WorkflowTemplate `tuft-steps`: a library with one template a step.

Everything goes through `inputs.parameters`: the step's parameters by their names; the URI of each
input by the input's name; and for each table or model that the step writes, `NAME_uri`, the URI
where it goes. Values come back as output parameters. Pages for people and metrics become
artifacts of the cluster's artifact repository, as plain files under keys that name the pod.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo

from tuft_components.argo.pods import (
    OUTPUTS,
    TMP,
    container_security,
    environment,
    placement,
    pod_security,
    resources,
    retry_strategy,
)
from tuft_components.profile import Profile
from tuft_components.steps import STEP_NAMES, Html, Markdown, Step, load_step

LIBRARY = "tuft-steps"
API_VERSION = "argoproj.io/v1alpha1"
_PAGES = {Html: ".html", Markdown: ".md"}


def template_name(step: str) -> str:
    """Argo's names have no underscores."""
    return step.replace("_", "-")


def library(profile: Profile) -> dict[str, Any]:
    """The manifest."""
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkflowTemplate",
        "metadata": {
            "name": LIBRARY,
            "labels": {"app.kubernetes.io/part-of": "tuft-pipelines"},
        },
        "spec": {"templates": [step_template(load_step(name), profile) for name in STEP_NAMES]},
    }


def step_template(step: Step[Any, Any, Any], profile: Profile) -> dict[str, Any]:
    settings = profile.step(step.name)
    return {
        "name": template_name(step.name),
        "annotations": {"workflows.argoproj.io/description": step.summary},
        **placement(settings),
        "securityContext": pod_security(),
        "inputs": {"parameters": list(input_parameters(step).values())},
        "outputs": _outputs(step),
        "retryStrategy": retry_strategy(settings),
        # Here, not in the workflow: a template that is referred to brings only what is its own.
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "container": {
            "image": profile.image,
            "imagePullPolicy": profile.image_pull_policy,
            "command": ["tuft-step", step.name],
            "args": _arguments(step),
            "env": environment(profile),
            "resources": resources(settings),
            "securityContext": container_security(),
            # The step writes its last words there; a process that could not, left a log.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": "tmp", "mountPath": TMP}],
        },
    }


def input_parameters(step: Step[Any, Any, Any]) -> dict[str, dict[str, Any]]:
    """Name → Argo's declaration, of everything that goes into the step's template.

    Raises:
        TypeError: two things of the step have the same name here.
    """
    found: dict[str, dict[str, Any]] = {}
    entries = [
        *((name, field) for name, field in step.params.model_fields.items()),
        *((name, field) for name, field in step.inputs.model_fields.items()),
        *((uri_parameter(name), None) for name in written_by_uri(step)),
    ]
    for name, field in entries:
        if name in found:
            raise TypeError(f"step {step.name} has two parameters {name!r} in Argo")
        found[name] = _parameter(step, name, field)
    return found


def written_by_uri(step: Step[Any, Any, Any]) -> list[str]:
    """Outputs that the step writes where its caller says."""
    kinds = step.output_kinds()
    return [
        name
        for name, kind in kinds.items()
        if kind == "artifact" and step.output_type(name) not in _PAGES
    ]


def uri_parameter(output: str) -> str:
    return f"{output}_uri"


def value_text(value: object) -> str:
    """A parameter's value as Argo carries it: JSON, but for texts."""
    return value if isinstance(value, str) else json.dumps(value)


def _parameter(step: Step[Any, Any, Any], name: str, field: FieldInfo | None) -> dict[str, Any]:
    if field is None:
        output = step.outputs.model_fields[name.removesuffix("_uri")]
        return {"name": name, "description": f"Where it goes: {output.description or name}"}
    parameter = {"name": name}
    if field.description:
        parameter["description"] = field.description
    if not field.is_required():
        default = field.get_default()
        # An optional input that is empty is none.
        parameter["default"] = "" if default is None else value_text(default)
    return parameter


def _arguments(step: Step[Any, Any, Any]) -> list[str]:
    arguments = [f"--param={name}={_input(name)}" for name in step.params.model_fields]
    arguments += [f"--input={name}={_input(name)}" for name in step.inputs.model_fields]
    by_uri = written_by_uri(step)
    for name in step.outputs.model_fields:
        place = _input(uri_parameter(name)) if name in by_uri else _local(step, name)
        arguments.append(f"--output={name}={place}")
    return arguments


def _input(name: str) -> str:
    return f"{{{{inputs.parameters.{name}}}}}"


def _local(step: Step[Any, Any, Any], output: str) -> str:
    """The file in the pod with a value, the metrics or a page."""
    return f"{OUTPUTS}/{_file_name(step, output)}"


def _file_name(step: Step[Any, Any, Any], output: str) -> str:
    kind = step.output_kinds()[output]
    if kind == "artifact":
        return output + _PAGES[step.output_type(output)]
    return f"{output}.json" if kind == "metrics" else output


def _outputs(step: Step[Any, Any, Any]) -> dict[str, Any]:
    kinds = step.output_kinds()
    by_uri = written_by_uri(step)
    outputs: dict[str, Any] = {}
    values = [name for name, kind in kinds.items() if kind == "value"]
    shown = [name for name, kind in kinds.items() if kind != "value" and name not in by_uri]
    if values:
        outputs["parameters"] = [
            {"name": name, "valueFrom": {"path": _local(step, name)}} for name in values
        ]
    if shown:
        outputs["artifacts"] = [
            {
                "name": name,
                "path": _local(step, name),
                "archive": {"none": {}},
                "s3": {"key": f"{{{{workflow.name}}}}/{{{{pod.name}}}}/{_file_name(step, name)}"},
            }
            for name in shown
        ]
    return outputs
