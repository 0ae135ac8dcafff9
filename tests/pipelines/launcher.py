"""Executes compiled IR as a cluster would: what KFP's driver and launcher do around a container.

The driver resolves a task's inputs and writes the executor input; the launcher puts it, and then
values of single inputs, into the container's command, executes that, and reads the executor output.
Here the container is a process, and artifacts are files: there is no container engine and no KFP.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Executed:
    """A task that has ended well: `command` is what was executed for it."""

    command: list[str]
    parameters: Mapping[str, Any]
    artifacts: Mapping[str, dict[str, Any]]


def execute(ir: Path, arguments: Mapping[str, Any], folder: Path) -> dict[str, Executed]:
    """Display name → task, of all tasks of the pipeline.

    Raises:
        AssertionError: a container failed, or did not write what its component declares.
    """
    spec = next(yaml.safe_load_all(ir.read_text()))
    declared = spec["root"]["inputDefinitions"]["parameters"]
    defaults = {
        name: one["defaultValue"] for name, one in declared.items() if "defaultValue" in one
    }
    given = {**defaults, **arguments}
    done: dict[str, Executed] = {}
    waiting = dict(spec["root"]["dag"]["tasks"])
    while waiting:
        ready = [
            name
            for name, task in waiting.items()
            if set(task.get("dependentTasks", [])) <= set(done)
        ]
        assert ready, f"these wait for each other: {list(waiting)}"
        for name in ready:
            task = waiting.pop(name)
            done[name] = _execute(spec, name, task, given, done, folder / name)
    tasks = spec["root"]["dag"]["tasks"]
    return {tasks[name]["taskInfo"]["name"]: executed for name, executed in done.items()}


def _execute(
    spec: Any,
    name: str,
    task: Any,
    given: Mapping[str, Any],
    done: Mapping[str, Executed],
    folder: Path,
) -> Executed:
    component = spec["components"][task["componentRef"]["name"]]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    request = {
        "inputs": _inputs(component, task, given, done),
        "outputs": _outputs(component, folder),
    }
    command = _command(container, request)
    folder.mkdir(parents=True)
    env = {**os.environ, **{one["name"]: one["value"] for one in container.get("env", [])}}
    ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert ended.returncode == 0, f"{name}: {ended.stderr}"
    output = json.loads((folder / "executor_output.json").read_text())
    for parameter, place in request["outputs"]["parameters"].items():
        assert parameter in output["parameterValues"], f"{name} has no {parameter}"
        assert Path(place["outputFile"]).is_file(), f"{name} wrote no file for {parameter}"
    artifacts = {key: entry["artifacts"][0] for key, entry in output["artifacts"].items()}
    assert set(artifacts) == set(request["outputs"]["artifacts"]), name
    return Executed(command, output["parameterValues"], artifacts)


def _inputs(
    component: Any, task: Any, given: Mapping[str, Any], done: Mapping[str, Executed]
) -> dict[str, Any]:
    definitions = component.get("inputDefinitions", {}).get("parameters", {})
    values = {
        name: one["defaultValue"] for name, one in definitions.items() if "defaultValue" in one
    }
    for name, entry in task["inputs"].get("parameters", {}).items():
        if "componentInputParameter" in entry:
            values[name] = given[entry["componentInputParameter"]]
        elif "taskOutputParameter" in entry:
            origin = entry["taskOutputParameter"]
            values[name] = done[origin["producerTask"]].parameters[origin["outputParameterKey"]]
        else:
            values[name] = entry["runtimeValue"]["constant"]
    for name, definition in definitions.items():
        if definition["parameterType"] == "NUMBER_INTEGER" and name in values:
            values[name] = int(values[name])  # as Go writes such numbers
    artifacts = {}
    for name, entry in task["inputs"].get("artifacts", {}).items():
        origin = entry["taskOutputArtifact"]
        artifact = done[origin["producerTask"]].artifacts[origin["outputArtifactKey"]]
        artifacts[name] = {"artifacts": [artifact]}
    return {"parameterValues": values, "artifacts": artifacts}


def _outputs(component: Any, folder: Path) -> dict[str, Any]:
    definitions = component.get("outputDefinitions", {})
    return {
        "parameters": {
            name: {"outputFile": str(folder / "outputs" / name)}
            for name in definitions.get("parameters", {})
        },
        "artifacts": {
            name: {
                "artifacts": [
                    {
                        "name": f"{name}-1",
                        "type": definition["artifactType"],
                        "uri": str(folder / name),
                        "metadata": {},
                    }
                ]
            }
            for name, definition in definitions.get("artifacts", {}).items()
        },
        "outputFile": str(folder / "executor_output.json"),
    }


def _command(container: Any, request: dict[str, Any]) -> list[str]:
    text = json.dumps(request, ensure_ascii=False)
    command = [part.replace("{{$}}", text) for part in [*container["command"], *container["args"]]]
    for name, value in request["inputs"]["parameterValues"].items():
        shown = value if isinstance(value, str) else json.dumps(value)
        placeholder = f"{{{{$.inputs.parameters['{name}']}}}}"
        command = [part.replace(placeholder, shown) for part in command]
    return command
