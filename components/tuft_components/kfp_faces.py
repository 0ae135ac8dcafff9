"""How a step runs as a Kubeflow Pipelines component.

Two faces of each step: a container component whose only argument is `{{$}}`, KFP's executor
input, and a lightweight twin for `kfp.local` whose body is one call to `run_lightweight`.
This module does not import kfp, so that images of steps need not have it.
"""

from __future__ import annotations

import json
import os
from collections import namedtuple
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tuft_components.errors import BadConfiguration, exit_code_of
from tuft_components.processes import enter_step_process
from tuft_components.steps import Artifact, Contract, Step, load_step
from tuft_components.termination import last_words, leave_last_words

# The launcher mounts, or copies, an object under this local path.
_LOCAL_ROOTS = {"s3://": "/s3/", "minio://": "/minio/", "gs://": "/gcs/", "file://": ""}
_KFPS_OWN = "pipelinechannel--"


def steps_image() -> str:
    """The image of all steps; its tag is this package's version. TUFT_STEPS_IMAGE overrides."""
    try:
        tag = version("tuft-pipelines")
    except PackageNotFoundError:  # used from a source tree
        tag = "latest"
    return os.environ.get("TUFT_STEPS_IMAGE") or f"tuft-pipelines/steps:{tag}"


def step_container(step: str) -> Any:
    """How KFP runs a step, by name or path, as a container: what `dsl.container_component` wants."""
    from kfp import dsl

    return dsl.ContainerSpec(
        image=steps_image(),
        command=["tuft-step", step],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )


def local_path(uri: str) -> str:
    """Where KFP puts the artifact of that URI."""
    for scheme, root in _LOCAL_ROOTS.items():
        if uri.startswith(scheme):
            return root + uri.removeprefix(scheme)
    return uri


def run_container(step: Step[Any, Any, Any], executor_input: str) -> Contract:
    """Execute the step as KFP's executor input says, and write its executor output.

    Raises:
        BadConfiguration: the text is not an executor input.
    """
    try:
        request = json.loads(executor_input)
        given = request.get("inputs", {})
        wanted = request["outputs"]
        # KFP adds what it puts into texts and lists of other parameters.
        params = {
            name: value
            for name, value in given.get("parameterValues", {}).items()
            if not name.startswith(_KFPS_OWN)
        }
        inputs = {
            name: _only(entry)["uri"]
            for name, entry in given.get("artifacts", {}).items()
            if entry.get("artifacts")  # an optional input that was left out has none
        }
        places = {name: _only(entry) for name, entry in wanted.get("artifacts", {}).items()}
        files = {name: entry["outputFile"] for name, entry in wanted.get("parameters", {}).items()}
        report = wanted["outputFile"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadConfiguration(f"--executor-input is no KFP executor input: {error!r}") from error
    outputs: Contract = step.execute(
        params,
        {name: local_path(uri) for name, uri in inputs.items()},
        {**{name: local_path(place["uri"]) for name, place in places.items()}, **files},
    )
    artifacts = {
        name: {
            "artifacts": [
                {
                    "name": place.get("name", ""),
                    "uri": place["uri"],
                    "metadata": _metadata(getattr(outputs, name)),
                }
            ]
        }
        for name, place in places.items()
    }
    path = Path(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"parameterValues": _values(step, outputs), "artifacts": artifacts}))
    return outputs


def run_lightweight(name: str, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Execute a step with the arguments of its lightweight KFP component.

    Artifacts among them are KFP's objects: outputs get their metadata. Returns the outputs that
    are values, as a named tuple. Ends the process with the step's exit code where it fails.
    """
    enter_step_process()
    try:
        return _run_lightweight(load_step(name), arguments)
    except Exception as error:
        leave_last_words(name, error)
        if exit_code_of(error) is None:
            raise  # a bug: KFP shows the traceback
        raise SystemExit(last_words(name, error)) from error


def _run_lightweight(step: Step[Any, Any, Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    inputs = {
        name: arguments[name].path
        for name in step.inputs.model_fields
        if arguments[name] is not None
    }
    kinds = step.output_kinds()
    places = {name: arguments[name] for name, kind in kinds.items() if kind != "value"}
    params = {name: value for name, value in arguments.items() if name in step.params.model_fields}
    outputs = step.execute(params, inputs, {name: place.path for name, place in places.items()})
    for name, place in places.items():
        place.metadata.update(_metadata(getattr(outputs, name)))
    values = _values(step, outputs)
    fields = namedtuple("Outputs", list(values))  # type: ignore[misc]  # KFP wants a named tuple
    return fields(**values)


def _values(step: Step[Any, Any, Any], outputs: Contract) -> dict[str, Any]:
    kinds = step.output_kinds()
    return {name: getattr(outputs, name) for name, kind in kinds.items() if kind == "value"}


def _metadata(output: Artifact | dict[str, float]) -> dict[str, Any]:
    return dict(output.metadata) if isinstance(output, Artifact) else dict(output)


def _only(entry: Mapping[str, Any]) -> dict[str, Any]:
    artifact: dict[str, Any] = entry["artifacts"][0]
    return artifact
