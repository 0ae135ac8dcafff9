"""The parts that WorkflowTemplates are made of: references, calls of steps, and knobs.

A call of a step is checked against its contract when it is made, and what it does not give becomes
a knob: an argument of the workflow with the step's own name, default and meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tuft_components.argo.step_templates import LIBRARY, input_parameters, template_name
from tuft_components.steps import load_step

OWN_DEFAULTS = frozenset({"timeout_s", "policy_name", "policy_version", "step_key"})
"""Parameters of steps that no pipeline shows: each step has its own, or finds it by itself."""


def argument(name: str) -> str:
    return f"{{{{workflow.parameters.{name}}}}}"


def taken(name: str) -> str:
    """What the template itself was given."""
    return f"{{{{inputs.parameters.{name}}}}}"


def result(call: str, output: str, *, kind: str = "steps") -> str:
    return f"{{{{{kind}.{call}.outputs.parameters.{output}}}}}"


def computed(expression: str) -> str:
    return f"{{{{={expression}}}}}"


def pairs(values: Mapping[str, str]) -> dict[str, Any]:
    return {"parameters": [{"name": name, "value": value} for name, value in values.items()]}


def call(name: str, template: str, values: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """A call of a template of the same workflow. `more`: when, depends, withParam."""
    return {"name": name, "template": template, "arguments": pairs(values), **more}


def outputs_of(values: Mapping[str, str]) -> dict[str, Any]:
    """Output parameters: of references `{{…}}`, or else of expressions.

    An expression sees the template's inputs and its calls, not the workflow's arguments.
    """
    return {
        "parameters": [
            {
                "name": name,
                "valueFrom": {"parameter" if value.startswith("{{") else "expression": value},
            }
            for name, value in values.items()
        ]
    }


def passed_on(output: str, *, of: str, otherwise: str) -> str:
    """An output of a call that may have been skipped, and else of the call before it.

    What was skipped has no outputs, or empty ones, as Argo's version has it.
    """
    last = f"steps.{of}.outputs.parameters.{output}"
    maybe = f"steps.{of}?.outputs?.parameters?.{output}"
    return f"({maybe} ?? '') != '' ? {last} : steps.{otherwise}.outputs.parameters.{output}"


class Knob(NamedTuple):
    """An argument of a workflow. A default of None: it must be given."""

    default: str | None
    description: str


class Knobs:
    """The arguments of a workflow, gathered from the calls of its steps.

    `own` are those of the pipeline itself, and those of steps whose meaning or default is another
    here.
    """

    def __init__(self, own: Mapping[str, Knob]) -> None:
        self._own = dict(own)
        self._found: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, list[str]] = {}
        for name, knob in own.items():
            entry = {"name": name, "description": knob.description}
            self._found[name] = entry if knob.default is None else {**entry, "value": knob.default}

    def arguments(self) -> dict[str, Any]:
        """Those that must be given come first. Of those of steps is said which ones they are."""
        found = [dict(entry) for entry in self._found.values()]
        for entry in found:
            if entry["name"] in self._steps:
                steps = ", ".join(sorted(self._steps[entry["name"]]))
                entry["description"] = f"{entry['description']} ({steps})"
        return {"parameters": sorted(found, key=lambda entry: "value" in entry)}

    def step(
        self,
        name: str,
        step: str,
        values: Mapping[str, str],
        *,
        renamed: Mapping[str, str] | None = None,
        hidden: Sequence[str] = (),
        **more: Any,
    ) -> dict[str, Any]:
        """A call of a step. What `values` lacks is a knob, by its name or the one in `renamed`.

        Raises:
            TypeError: the step has no such parameter, or a knob has two defaults.
        """
        declared = input_parameters(load_step(step))
        if unknown := sorted({*values, *(renamed or {}), *hidden} - set(declared)):
            raise TypeError(f"call {name}: the step {step} has no parameter {', '.join(unknown)}")
        given = dict(values)
        for parameter, entry in declared.items():
            if parameter in given or parameter in hidden or parameter in OWN_DEFAULTS:
                continue
            knob = (renamed or {}).get(parameter, parameter)
            self._add(knob, step, entry)
            given[parameter] = argument(knob)
        return {
            "name": name,
            "templateRef": {"name": LIBRARY, "template": template_name(step)},
            "arguments": pairs(given),
            **more,
        }

    def _add(self, knob: str, step: str, entry: Mapping[str, Any]) -> None:
        if knob in self._own:
            return
        found = {"name": knob, "description": entry.get("description", "")}
        if "default" in entry:
            found["value"] = entry["default"]
        before = self._found.setdefault(knob, found)
        if before.get("value") != found.get("value"):
            raise TypeError(
                f"the knob {knob} has two defaults, {before.get('value')!r} and "
                f"{found.get('value')!r}: rename one, or give the pipeline its own"
            )
        steps = self._steps.setdefault(knob, [])
        if step not in steps:
            steps.append(step)
