"""The tables of the components' READMEs, made from the steps' contracts.

`python -m tuft_components.readmes` writes them anew; a test fails where one is out of date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tuft_components.steps import STEP_NAMES, Artifact, Metrics, Step, load_step

BEGIN = "<!-- contract: made by `python -m tuft_components.readmes` -->"
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
    if annotation is Artifact:
        return "artifact"
    if annotation == Metrics:
        return "metrics"
    if get_origin(annotation) is dict:
        return "JSON object"
    return annotation.__name__ if isinstance(annotation, type) else "text"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default()
    return "empty" if default in ("", {}) else f"`{default}`"


def main() -> None:
    for name in STEP_NAMES:
        path = readme_path(name)
        path.write_text(updated(path.read_text(), load_step(name)))


if __name__ == "__main__":
    main()
