"""The KFP faces of the steps: `component.py` of each, made from its contract.

KFP reads a component's parameters from the signature of a Python function, so that each face must
spell out what the contract says already. `python -m tuft_components.component_files` writes these
files (and the READMEs' tables) anew; a test fails where one is out of date. With an argument,
`package.module:STEP`, it prints that of a user's own step.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from tuft_components.steps import STEP_NAMES, Artifact, Dataset, Html, Markdown, Model, Step

_KFP_TYPES: dict[type[Artifact], str] = {
    Dataset: "dsl.Dataset",
    Model: "dsl.Model",
    Html: "dsl.HTML",
    Markdown: "dsl.Markdown",
}
_LINE_LENGTH = 100
_TEMPLATE = '''"""KFP faces of the step `{name}`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: {unused}  # KFP reads a container component's signature; values go through {{{{$}}}}
{imports}
from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def {name}(
{container_signature}
) -> dsl.ContainerSpec:
    """{summary}"""
    return step_container("{path}")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def {name}_lightweight(
{lightweight_signature}
) -> {returns}
    """{summary}"""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    {call}
'''


def component_path(name: str) -> Path:
    return Path(__file__).parent / name / "component.py"


def component_source(step: Step[Any, Any, Any], path: str = "") -> str:
    """The text of the step's `component.py`. `path`: of a step that is not one of ours."""
    values = [name for name, kind in step.output_kinds().items() if kind == "value"]
    first, defaulted = _shared_signature(step)
    outputs = [
        f"{name}: dsl.OutputPath({_value_type(step, name)}),  # type: ignore[valid-type]"
        for name in values
    ]
    pairs = ", ".join(f'("{name}", {_value_type(step, name)})' for name in values)
    call = f'run_lightweight("{path or step.name}", arguments)'
    with_list = any(argument.endswith(" = [],") for argument in defaulted)
    return _TEMPLATE.format(
        name=step.name,
        path=path or step.name,
        unused="ARG001, B006" if with_list else "ARG001",
        summary=step.summary,
        imports="\nfrom typing import NamedTuple\n" if values else "",
        container_signature=_lines([*first, *outputs, *defaulted]),
        lightweight_signature=_lines([*first, *defaulted]),
        returns=_returned(pairs) if values else "None:",
        call=f"return {call}" if values else call,
    )


def _returned(pairs: str) -> str:
    """The lightweight face's values, in lines as ruff breaks them."""
    ignored = "# type: ignore[valid-type]"
    line = f'NamedTuple("Outputs", [{pairs}]):'
    if len(") -> " + line) <= _LINE_LENGTH:
        return f"{line}  {ignored}"
    return f'NamedTuple(  {ignored}\n    "Outputs",\n    [{pairs}],\n):'


def _shared_signature(step: Step[Any, Any, Any]) -> tuple[list[str], list[str]]:
    """Arguments of both faces: those without a default, and those with one."""
    first, defaulted = [], []
    for name, field in step.params.model_fields.items():
        kind = _param_type(field)
        if field.is_required():
            first.append(f"{name}: {kind},")
        else:
            defaulted.append(f"{name}: {kind} = {_literal(field.get_default())},")
    for name, field in step.inputs.model_fields.items():
        argument = f"{name}: dsl.Input[{_KFP_TYPES[step.input_type(name)]}]"
        if field.is_required():
            first.append(f"{argument},")
        else:
            defaulted.insert(0, f"{argument} = None,")
    for name, output in step.output_kinds().items():
        if output == "metrics":
            first.append(f"{name}: dsl.Output[dsl.Metrics],")
        elif output == "artifact":
            first.append(f"{name}: dsl.Output[{_KFP_TYPES[step.output_type(name)]}],")
    return first, defaulted


def _lines(arguments: list[str]) -> str:
    return "\n".join(f"    {argument}" for argument in arguments)


def _param_type(field: FieldInfo) -> str:
    annotation = field.annotation
    if annotation in (bool, int, float):
        assert isinstance(annotation, type)
        return annotation.__name__
    if get_origin(annotation) is list:
        return "list[str]"  # as KFP collects them of a ParallelFor
    return "str"  # texts, choices, and a JSON object as text


def _value_type(step: Step[Any, Any, Any], name: str) -> str:
    annotation = step.outputs.model_fields[name].annotation
    if annotation not in (str, int, float, bool):
        raise TypeError(f"output {name} of step {step.name} is {annotation}; KFP has no such value")
    assert isinstance(annotation, type)
    return annotation.__name__


def _literal(default: object) -> str:
    if isinstance(default, dict | list):
        if default:
            raise TypeError(f"a default of {default!r} is too much for a signature")
        return '"{}"' if isinstance(default, dict) else "[]"
    return f'"{default}"' if isinstance(default, str) else repr(default)


def is_json(field: FieldInfo) -> bool:
    """Whether a parameter is JSON where it goes as text."""
    return get_origin(field.annotation) in (dict, list) and bool(get_args(field.annotation))


def main() -> None:
    from tuft_components import readmes
    from tuft_components.steps import load_step

    if paths := sys.argv[1:]:
        sys.stdout.write("".join(component_source(load_step(path), path) for path in paths))
        return
    for name in STEP_NAMES:
        component_path(name).write_text(component_source(load_step(name)))
    readmes.main()


if __name__ == "__main__":
    main()
