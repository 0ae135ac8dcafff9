"""Strict checks of Argo manifests without Argo.

The schemas beside this file are those of Argo Workflows 4.1.2 (its manifests/base/crds/full), which
is under the Apache License 2.0; the first two checks are those of the project's tool argo_check.py,
which is not at hand wherever these tests run.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Manifest = Mapping[str, Any]
_CRDS = Path(__file__).with_name("argo-workflows-4.1.2-crds.tar.xz")
_MEMBER = {
    "Workflow": "workflows.yaml",
    "WorkflowTemplate": "workflowtemplates.yaml",
    "CronWorkflow": "cronworkflows.yaml",
}


def findings(manifests: Sequence[Manifest]) -> list[str]:
    """Everything that is wrong with manifests that are applied together."""
    found = []
    for manifest in manifests:
        name = f"{manifest['kind']}/{name_of(manifest)}"
        checks = (schema_findings, reference_findings)
        found += [f"{name}: {text}" for check in checks for text in check(manifest)]
        found += [f"{name}: {text}" for text in library_findings(manifest, manifests)]
    return found


def name_of(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return str(metadata.get("name") or metadata["generateName"])


def schema_findings(manifest: Manifest) -> Iterator[str]:
    """Unknown fields, wrong types and values, by the schemas of the CRDs."""
    for error in _validator(manifest["kind"]).iter_errors(manifest):
        yield f"{'/'.join(map(str, error.path))}: {error.message[:160]}"


def reference_findings(manifest: Manifest) -> Iterator[str]:
    """References within a manifest to what is not there."""
    spec = manifest["spec"].get("workflowSpec", manifest["spec"])
    templates = {template["name"]: template for template in spec.get("templates", [])}
    for key in ("entrypoint", "onExit"):
        if spec.get(key) and templates and spec[key] not in templates:
            yield f"{key}: template {spec[key]!r} is not defined"
    arguments = {p["name"] for p in spec.get("arguments", {}).get("parameters", [])}
    for name, template in templates.items():
        for call in calls(template):
            if "template" in call:
                target = templates.get(call["template"])
                yield from _call_findings(f"{name}.{call['name']}", call, target)
        inputs = {p["name"] for p in template.get("inputs", {}).get("parameters", [])}
        text = yaml.safe_dump(template, width=10**6)
        for parameter in sorted(set(re.findall(r"inputs\.parameters\.([\w-]+)", text)) - inputs):
            yield f"{name}: inputs.parameters.{parameter} is not defined"
        used = set(re.findall(r"workflow\.parameters\.([\w-]+)", text))
        for parameter in sorted(used - arguments):
            yield f"{name}: workflow.parameters.{parameter} is not defined"


def library_findings(manifest: Manifest, others: Sequence[Manifest]) -> Iterator[str]:
    """Calls of templates of other manifests, and results of calls that they do not have."""
    library = {
        (name_of(other), template["name"]): template
        for other in others
        for template in other["spec"].get("templates", [])
    }
    run = manifest["spec"].get("workflowSpec", {}).get("workflowTemplateRef")
    if run is not None:
        yield from _run_findings(run["name"], manifest["spec"]["workflowSpec"], others)
    own = name_of(manifest)
    for template in manifest["spec"].get("templates", []):
        targets: dict[str, Any] = {}
        for call in calls(template):
            reference = call.get("templateRef") or {"name": own, "template": call["template"]}
            target = library.get((reference["name"], reference["template"]))
            targets[call["name"]] = target or {}
            yield from _call_findings(f"{template['name']}.{call['name']}", call, target)
        text = yaml.safe_dump(template, width=10**6).replace("?.", ".")
        for call_name, output in re.findall(
            r"(?:steps|tasks)\.([\w-]+)\.outputs\.parameters\.([\w-]+)", text
        ):
            outputs = targets.get(call_name, {}).get("outputs", {}).get("parameters", [])
            if output not in {entry["name"] for entry in outputs}:
                yield f"{template['name']}: {call_name} gives no {output}"


def _run_findings(name: str, spec: Mapping[str, Any], others: Sequence[Manifest]) -> Iterator[str]:
    """Of a workflow that is one of a WorkflowTemplate."""
    target = next((other for other in others if name_of(other) == name), None)
    inputs = target and target["spec"].get("arguments", {})
    yield from _call_findings(f"workflow of {name}", spec, target and {"inputs": inputs})


def calls(template: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [call for group in template.get("steps", []) for call in group]
    tasks: list[dict[str, Any]] = template.get("dag", {}).get("tasks", [])
    return [*found, *tasks]


def _call_findings(
    where: str, call: Mapping[str, Any], target: Mapping[str, Any] | None
) -> Iterator[str]:
    if target is None:
        yield f"{where}: its template is not defined"
        return
    declared = target.get("inputs", {}).get("parameters", [])
    needed = {p["name"] for p in declared if "value" not in p and "default" not in p}
    given = {p["name"] for p in call.get("arguments", {}).get("parameters", [])}
    if missing := sorted(needed - given):
        yield f"{where}: missing arguments {missing}"
    if unknown := sorted(given - {p["name"] for p in declared}):
        yield f"{where}: unknown arguments {unknown}"


@cache
def _validator(kind: str) -> jsonschema.Draft7Validator:
    with tarfile.open(_CRDS) as archive:
        member = archive.extractfile(_MEMBER[kind])
        assert member is not None
        crd = yaml.load(member, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    _close(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(schema)


def _close(node: Any) -> None:
    """Forbid unknown properties in place, wherever the schema lists properties."""
    if isinstance(node, dict):
        opened = node.get("x-kubernetes-preserve-unknown-fields")
        if node.get("type") == "object" and "properties" in node and not opened:
            node.setdefault("additionalProperties", False)
        if node.get("x-kubernetes-int-or-string"):
            node.pop("type", None)
            node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        for value in node.values():
            _close(value)
    elif isinstance(node, list):
        for value in node:
            _close(value)
