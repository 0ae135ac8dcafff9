"""`tuft-pipelines run demo`: the demo pipeline in local processes, against a running service."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tuft_pipelines.arguments import parse_arguments
from tuft_pipelines.demo_pipeline import build_demo
from tuft_pipelines.demo_results import Progress, demo_history
from tuft_pipelines.faces import local_faces
from tuft_pipelines.local_run import TaskResult, run_locally
from tuft_pipelines.output import OutputFolder, say
from tuft_pipelines.report import render_table


def run_demo_pipeline(folder: Path, iterations: int, settings: Sequence[str]) -> None:
    """Run it, show progress, write results below `folder`, and print the table at the end.

    Args:
        settings: parameters of the pipeline as `NAME=VALUE`.

    Raises:
        WrongArgument: a setting or `iterations` is wrong; nothing was run.
        PipelineFailed: a task failed.
    """
    pipeline = build_demo(local_faces(), iterations)
    arguments = parse_arguments(pipeline, settings)
    output = OutputFolder(folder)
    output.clear()
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
    history = demo_history(results, iterations)
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
