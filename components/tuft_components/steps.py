"""What a step is: typed parameters, inputs and outputs, and a function over them.

A step is stateless and may be executed again at any time. Large things go in and out as
artifacts, by URI (a file path, file:// or s3://); small values go in and out as they are.
Each step is defined once, in `tuft_components/<name>/step.py`, and shown as a CLI (`tuft-step`)
and as KFP components.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tuft_components.artifacts import local_output
from tuft_components.errors import BadConfiguration
from tuft_components.names import find
from tuft_components.work import keep_record

STEP_NAMES = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/step.py")))
"""Each is a folder of this package."""


class Contract(BaseModel):
    """Base of params, inputs and outputs: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Artifact(Contract):
    """A thing in a file or object. `metadata` says what is in it, `schema` above all."""

    uri: str = Field(min_length=1)
    metadata: dict[str, str | int | float] = {}


class Dataset(Artifact):
    """Rows; Kubeflow shows it as a `system.Dataset`."""


class Model(Artifact):
    """Weights; `system.Model`."""


class Html(Artifact):
    """A page that Kubeflow shows; `system.HTML`."""


class Markdown(Artifact):
    """A text that Kubeflow shows; `system.Markdown`."""


class NoInputs(Contract):
    """Of steps that read no artifact."""


Metrics = dict[str, float]
Locations = Mapping[str, str]
"""Where to write: name of an output → URI."""


def _parse_object(value: object) -> object:
    return json.loads(value or "{}") if isinstance(value, str) else value


def _parse_list(value: object) -> object:
    return json.loads(value or "[]") if isinstance(value, str) else value


JsonObject = Annotated[dict[str, Any], BeforeValidator(_parse_object)]
"""A dict, or a JSON object as text (as command lines and pipeline parameters carry it)."""

JsonList = Annotated[list[str], BeforeValidator(_parse_list)]
"""A list of texts, or a JSON array as text."""

WorkUri = Annotated[
    str,
    Field(
        description="Folder or s3://bucket/prefix of this pipeline run, where steps keep what "
        "a retry, the report and other pods need. Empty: nowhere."
    ),
]

ReplayRatio = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Share of the groups that play tasks again which failed before. 0: none, and "
        "nothing is remembered.",
    ),
]

TimeoutS = Annotated[
    float, Field(gt=0, description="Seconds to wait for one answer of the service.")
]

Params = TypeVar("Params", bound=Contract)
Inputs = TypeVar("Inputs", bound=Contract)
Outputs = TypeVar("Outputs", bound=Contract)

OutputKind = Literal["artifact", "metrics", "value"]


@dataclass(frozen=True)
class Step(Generic[Params, Inputs, Outputs]):
    """A step's contract and its work.

    `run(params, inputs, locations)` writes each output artifact to `locations[name]` and
    returns the outputs. It raises errors of `tuft_components.errors` and of `tuft_sdk`.
    """

    name: str
    summary: str
    params: type[Params]
    inputs: type[Inputs]
    outputs: type[Outputs]
    run: Callable[[Params, Inputs, Locations], Outputs]

    def output_kinds(self) -> dict[str, OutputKind]:
        return {name: _kind_of(f.annotation) for name, f in self.outputs.model_fields.items()}

    def output_type(self, name: str) -> type[Artifact]:
        """Of an output that is an artifact."""
        annotation = self.outputs.model_fields[name].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Artifact)
        return annotation

    def input_type(self, name: str) -> type[Artifact]:
        """Of an input; that of an optional one is written `Dataset | None`."""
        annotation = self.inputs.model_fields[name].annotation
        for kind in (annotation, *get_args(annotation)):
            if isinstance(kind, type) and issubclass(kind, Artifact):
                return kind
        raise TypeError(f"input {name} of step {self.name} is no artifact")

    def execute(
        self, params: Mapping[str, Any], inputs: Mapping[str, str], locations: Locations
    ) -> Outputs:
        """Check everything, do the work, and write outputs to their locations.

        Args:
            params: name → value (or text, from which a value of the right type is read).
            inputs: name → URI. An empty one for an optional input is none: not every workflow
                engine can leave an argument out.
            locations: name → URI; needed for each artifact. A value or metrics with a location
                is written there as text or JSON, besides being returned.

        Raises:
            BadConfiguration: a name or value does not fit the contract.
        """
        checked_params = _checked(self.params, params, f"step {self.name}: parameter")
        checked_inputs = _checked(
            self.inputs,
            {name: {"uri": uri} for name, uri in inputs.items() if uri or not self._optional(name)},
            f"step {self.name}: input",
        )
        kinds = self.output_kinds()
        if unknown := sorted(set(locations) - set(kinds)):
            raise BadConfiguration(
                f"step {self.name} has no output {', '.join(unknown)}; it has: {', '.join(kinds)}"
            )
        missing = [name for name, kind in kinds.items() if kind == "artifact"]
        missing = [name for name in missing if not locations.get(name)]
        if missing:
            raise BadConfiguration(
                f"step {self.name} writes {', '.join(missing)}: say where, "
                f"for example --output {missing[0]}=/tmp/{missing[0]}.parquet"
            )
        begun = time.monotonic()
        outputs = self.run(checked_params, checked_inputs, locations)
        for name, kind in kinds.items():
            if kind != "artifact" and locations.get(name):
                _write_value(locations[name], getattr(outputs, name))
        keep_record(
            self.name,
            checked_params,
            values=self._of_kind(outputs, "value"),
            metrics={
                name: number
                for metrics in self._of_kind(outputs, "metrics").values()
                for name, number in metrics.items()
            },
            artifacts={name: a.uri for name, a in self._of_kind(outputs, "artifact").items()},
            seconds=time.monotonic() - begun,
        )
        return outputs

    def _optional(self, name: str) -> bool:
        field = self.inputs.model_fields.get(name)
        return field is not None and not field.is_required()

    def _of_kind(self, outputs: Outputs, wanted: OutputKind) -> dict[str, Any]:
        kinds = self.output_kinds()
        return {name: getattr(outputs, name) for name, kind in kinds.items() if kind == wanted}


def load_step(name: str) -> Step[Any, Any, Any]:
    """The step of that name, or a user's own by import path, `package.module:STEP`.

    Raises:
        BadConfiguration: there is none.
    """
    known = {name: f"tuft_components.{name}.step:STEP" for name in STEP_NAMES}
    step = find(name, known, "step")
    if not isinstance(step, Step):
        raise BadConfiguration(f"step {name} is a {type(step).__name__}, not a Step")
    return step


def _kind_of(annotation: object) -> OutputKind:
    if isinstance(annotation, type) and issubclass(annotation, Artifact):
        return "artifact"
    return "metrics" if annotation == Metrics else "value"


def _write_value(uri: str, value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    with local_output(uri) as path:
        Path(path).write_text(text)


Checked = TypeVar("Checked", bound=BaseModel)


def _checked(model: type[Checked], values: Mapping[str, Any], what: str) -> Checked:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"] if part != "uri")
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                known = ", ".join(model.model_fields) or "none"
                message = f"unknown; there are: {known}"
            lines.append(f"{what} {where}: {message}")
        raise BadConfiguration("\n".join(lines)) from error
