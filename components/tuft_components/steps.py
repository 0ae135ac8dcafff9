"""What a step is: typed parameters, inputs and outputs, and a function over them.

A step is stateless and may be executed again at any time. Large things go in and out as
artifacts, by URI (a file path, file:// or s3://); small values go in and out as they are.
Each step is defined once, in `tuft_components/<name>/step.py`, and shown as a CLI (`tuft-step`)
and as KFP components.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tuft_components.artifacts import local_output
from tuft_components.errors import BadConfiguration

STEP_NAMES = ("start_run", "rollout", "feedback", "update", "evaluate")


class Contract(BaseModel):
    """Base of params, inputs and outputs: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Artifact(Contract):
    """A thing in a file or object. `metadata` says what is in it, `schema` above all."""

    uri: str = Field(min_length=1)
    metadata: dict[str, str | int | float] = {}


class NoInputs(Contract):
    """Of steps that read no artifact."""


Metrics = dict[str, float]
Locations = Mapping[str, str]
"""Where to write: name of an output → URI."""


def _parse_json(value: object) -> object:
    return json.loads(value or "{}") if isinstance(value, str) else value


JsonObject = Annotated[dict[str, Any], BeforeValidator(_parse_json)]
"""A dict, or a JSON object as text (as command lines and pipeline parameters carry it)."""

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

    def execute(
        self, params: Mapping[str, Any], inputs: Mapping[str, str], locations: Locations
    ) -> Outputs:
        """Check everything, do the work, and write outputs to their locations.

        Args:
            params: name → value (or text, from which a value of the right type is read).
            inputs: name → URI.
            locations: name → URI; needed for each artifact. A value or metrics with a location
                is written there as text or JSON, besides being returned.

        Raises:
            BadConfiguration: a name or value does not fit the contract.
        """
        checked_params = _checked(self.params, params, f"step {self.name}: parameter")
        checked_inputs = _checked(
            self.inputs,
            {name: {"uri": uri} for name, uri in inputs.items()},
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
        outputs = self.run(checked_params, checked_inputs, locations)
        for name, kind in kinds.items():
            if kind != "artifact" and locations.get(name):
                _write_value(locations[name], getattr(outputs, name))
        return outputs


def load_step(name: str) -> Step[Any, Any, Any]:
    """The step of that name.

    Raises:
        BadConfiguration: there is none.
    """
    if name not in STEP_NAMES:
        raise BadConfiguration(f"no step {name!r}; there are: {', '.join(STEP_NAMES)}")
    step: Step[Any, Any, Any] = import_module(f"tuft_components.{name}.step").STEP
    return step


def _kind_of(annotation: object) -> OutputKind:
    if annotation is Artifact:
        return "artifact"
    return "metrics" if annotation == Metrics else "value"


def _write_value(uri: str, value: object) -> None:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    with local_output(uri) as path:
        Path(path).write_text(text)


Model = TypeVar("Model", bound=BaseModel)


def _checked(model: type[Model], values: Mapping[str, Any], what: str) -> Model:
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
