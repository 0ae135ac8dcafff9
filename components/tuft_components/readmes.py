"""The tables of the components' READMEs and their catalogue, made from the steps' contracts.

`make generate` writes them anew; a test fails where one is out of date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuft_components.steps import STEP_NAMES, Artifact, Metrics, Step, load_step

BEGIN = "<!-- contract: made by `make generate` -->"
END = "<!-- end of contract -->"


def readme_path(name: str) -> Path:
    return Path(__file__).parent / name / "README.md"


def updated(text: str, step: Step[Any, Any, Any]) -> str:
    """The README with its contract part made from the step.

    Raises:
        ValueError: the text has no such part.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README of {step.name} lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{contract_text(step)}\n{END}{after}"


def contract_text(step: Step[Any, Any, Any]) -> str:
    parts = []
    for title, model in (
        ("Parameters", step.params),
        ("Inputs", step.inputs),
        ("Outputs", step.outputs),
    ):
        if model.model_fields:
            parts.append(_table(title, model))
    return "\n".join(parts)


def _table(title: str, model: type[BaseModel]) -> str:
    with_default = title == "Parameters"
    lines = [f"**{title}**", ""]
    lines.append(
        "| name | type | default | meaning |" if with_default else "| name | type | meaning |"
    )
    lines.append("|---|---|---|---|" if with_default else "|---|---|---|")
    for name, field in model.model_fields.items():
        default = f" {_default(field)} |" if with_default else ""
        lines.append(f"| `{name}` | {_type(field)} |{default} {field.description or ''} |")
    return "\n".join(lines) + "\n"


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    kinds = [k for k in (annotation, *get_args(annotation)) if isinstance(k, type)]
    artifacts = [kind.__name__ for kind in kinds if issubclass(kind, Artifact)]
    if artifacts:
        return artifacts[0] + ("" if field.is_required() else ", may be left out")
    if annotation == Metrics:
        return "metrics"
    if get_origin(annotation) in (dict, list):
        return "JSON object" if get_origin(annotation) is dict else "JSON array"
    return annotation.__name__ if isinstance(annotation, type) else "text"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default()
    return "empty" if default in ("", {}, []) else f"`{default}`"


CATALOGUE = """# Components

One folder each in `tuft_components/`, in the layout of kubeflow/pipelines-components: the step
(`step.py`), its KFP faces (`component.py`), `metadata.yaml`, and a README with every parameter. Each
is also a command, `tuft-step NAME`, and an Argo template.

Made by `make generate`.

| component | what it does | reads | writes |
|---|---|---|---|
{rows}
"""


def catalogue_path() -> Path:
    return Path(__file__).parent.parent / "README.md"


def catalogue() -> str:
    """The text of components/README.md."""
    rows = []
    for name in STEP_NAMES:
        step = load_step(name)
        reads = ", ".join(f"`{read}`" for read in step.inputs.model_fields) or "–"
        writes = ", ".join(f"`{written}`" for written in step.outputs.model_fields) or "–"
        link = f"[{name}](tuft_components/{name}/README.md)"
        rows.append(f"| {link} | {step.summary} | {reads} | {writes} |")
    return CATALOGUE.format(rows="\n".join(rows))


def main() -> None:
    for name in STEP_NAMES:
        path = readme_path(name)
        path.write_text(updated(path.read_text(), load_step(name)))
    catalogue_path().write_text(catalogue())


if __name__ == "__main__":
    main()
