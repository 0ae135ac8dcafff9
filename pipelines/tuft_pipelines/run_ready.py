"""`tuft-pipelines run`: a ready pipeline in local processes, against a running service."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tuft_sdk
from tuft_pipelines.errors import PipelineFailed, WrongArgument
from tuft_pipelines.faces import local_faces
from tuft_pipelines.local_run import TaskResult, run_locally
from tuft_pipelines.output import OutputFolder, say
from tuft_pipelines.ready import ReadyPipeline

_REACHABLE_WITHIN_S = 20.0
_SHOWN_VALUES = 4


def run_ready(
    pipeline: ReadyPipeline,
    folder: Path,
    settings: Sequence[str],
    build: Sequence[str],
    *,
    retries: int = 0,
) -> dict[str, TaskResult]:
    """Run it, show progress, write results below `folder`, and print a summary at the end.

    Args:
        settings: parameters of the pipeline as `NAME=VALUE`.
        build: what is decided when it is compiled, as `NAME=VALUE`.
        retries: of each task that fails.

    Raises:
        WrongArgument: a setting or variable is wrong; nothing was run.
        PipelineFailed: a task failed, or the service is away.
    """
    choices = pipeline.choose(build)
    arguments = pipeline.parameters.parse([*_own(pipeline, folder, settings), *settings])
    built = pipeline.build(local_faces(retries=retries), choices)
    _reach_service()
    output = OutputFolder(folder)
    output.clear()
    say(f"{pipeline.name}: --param name={arguments['name']} goes on with this run if it fails")
    started = time.monotonic()
    results = run_locally(
        built,
        arguments,
        folder=output.artifacts,
        log_file=output.log_file,
        on_task=lambda task: say(line(task)),
    )
    summary = summary_of(pipeline, arguments, results, time.monotonic() - started)
    summary_file = folder / "summary.json"
    summary_file.write_text(json.dumps(summary, indent=1))
    facts = [f"{name:<14} {value}" for name, value in summary["outputs"].items()]
    sys.stdout.write("\n".join(["", *facts, f"{'summary':<14} {summary_file}", ""]))
    sys.stdout.flush()
    return results


def line(task: TaskResult) -> str:
    """What a user wants to see of a task that has just finished."""
    numbers = {
        name: value
        for name, value in {**task.parameters, **_metrics(task)}.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    # What counts most goes first, and no more than a line holds.
    names = sorted(numbers, key=lambda name: ("reward" not in name, "loss" not in name))
    shown = "  ".join(f"{name} {numbers[name]:.4g}" for name in names[:_SHOWN_VALUES])
    return f"{task.name:<20} {task.seconds:6.1f} s  {shown}".rstrip()


def summary_of(
    pipeline: ReadyPipeline,
    arguments: Mapping[str, Any],
    results: Mapping[str, TaskResult],
    seconds: float,
) -> dict[str, Any]:
    """All that happened. `outputs` are the newest of what the steps gave under each name."""
    outputs: dict[str, Any] = {}
    for task in results.values():
        outputs |= {name: value for name, value in task.parameters.items() if value != ""}
        outputs |= {
            name: artifact.uri
            for name, artifact in task.artifacts.items()
            if name in ("html", "card", "model")
        }
    return {
        "pipeline": pipeline.name,
        "arguments": dict(arguments),
        "seconds": round(seconds, 1),
        "outputs": outputs,
        "tasks": [asdict(task) for task in results.values()],
    }


def _metrics(task: TaskResult) -> Mapping[str, Any]:
    artifact = task.artifacts.get("metrics")
    return artifact.metadata if artifact else {}


def _own(pipeline: ReadyPipeline, folder: Path, settings: Sequence[str]) -> list[str]:
    """Settings that need not be given where a pipeline runs locally."""
    given = {setting.partition("=")[0]: setting.partition("=")[2] for setting in settings}
    name = given.get("name") or f"{pipeline.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    own = {"name": name, "work_root": str((folder / "work").absolute())}
    return [f"{key}={value}" for key, value in own.items() if key not in given]


def _reach_service() -> None:
    """A service that is not there is found before the first task, and told in one line."""
    try:
        with tuft_sdk.connect(deadline_s=_REACHABLE_WITHIN_S) as client:
            client.models()
    except tuft_sdk.ConfigurationError as error:
        raise WrongArgument(f"{error}. `tuft` starts a service and says what to set") from error
    except tuft_sdk.SdkError as error:
        raise PipelineFailed(f"the service does not answer: {error}") from error
