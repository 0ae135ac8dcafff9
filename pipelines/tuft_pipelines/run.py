"""`tuft-pipelines run demo`: the demo pipeline in local processes, against a running service."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tuft_sdk
from tuft_pipelines.arguments import parse_arguments
from tuft_pipelines.demo_pipeline import build_demo
from tuft_pipelines.demo_results import Progress, demo_history
from tuft_pipelines.errors import PipelineFailed, WrongArgument
from tuft_pipelines.faces import local_faces
from tuft_pipelines.local_run import TaskResult, run_locally
from tuft_pipelines.output import OutputFolder, say
from tuft_pipelines.report import render_table

_REACHABLE_WITHIN_S = 20.0


def run_demo_pipeline(folder: Path, iterations: int, settings: Sequence[str]) -> None:
    """Run it, show progress, write results below `folder`, and print the table at the end.

    Args:
        settings: parameters of the pipeline as `NAME=VALUE`.

    Raises:
        WrongArgument: a setting, a variable or `iterations` is wrong; nothing was run.
        PipelineFailed: a task failed, or the service is away.
    """
    pipeline = build_demo(local_faces(), iterations)
    arguments = parse_arguments(pipeline, settings)
    arguments["base_model"] = _served_model(arguments.get("base_model", ""))
    output = OutputFolder(folder)
    output.clear()
    started = time.monotonic()
    progress = Progress(iterations)

    def show(task: TaskResult) -> None:
        line = progress.line(task)
        if line is not None:
            say(line)

    results = run_locally(
        pipeline,
        arguments,
        folder=output.artifacts,
        log_file=output.log_file,
        on_task=show,
    )
    history = demo_history(
        results,
        iterations,
        facts={
            "base model": arguments["base_model"],
            "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "duration": f"{time.monotonic() - started:.0f} s",
        },
    )
    files = output.write(history)
    lines = [
        "",
        render_table(history),
        "",
        *(f"{name:<13} {value}" for name, value in history.facts.items()),
        *(f"{file.stem:<13} {file}" for file in files),
        "",
    ]
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()


def _served_model(wanted: str) -> str:
    """The base model to train: `wanted`, or the first that is served where it is empty."""
    try:
        with tuft_sdk.connect(deadline_s=_REACHABLE_WITHIN_S) as client:
            models = client.models()
    except tuft_sdk.ConfigurationError as error:
        raise WrongArgument(
            f"{error}. `tuft` starts a service and says what to set; "
            "`tuft-pipelines demo` brings its own"
        ) from error
    except tuft_sdk.SdkError as error:
        raise PipelineFailed(f"the service does not answer: {error}") from error
    if wanted and wanted not in models:
        raise WrongArgument(f"base_model {wanted!r} is not served; there are: {', '.join(models)}")
    if not models:
        raise PipelineFailed("the service serves no model")
    return wanted or models[0]
