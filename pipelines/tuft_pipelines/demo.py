"""`tuft-pipelines demo`: the demo pipeline on a service of its own, from nothing to a report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tuft_pipelines.errors import DemoFailed
from tuft_pipelines.local_service import local_service
from tuft_pipelines.output import OutputFolder, say
from tuft_pipelines.processes import child

BELOW_BEFORE = 0.6
ABOVE_AFTER = 0.9


def run_demo(
    folder: Path, pipeline_arguments: Sequence[str], service_arguments: Sequence[str] = ()
) -> None:
    """Start a service, train on it, report, and stop all of it, however it ends.

    Args:
        folder: of results, logs and checkpoints.
        pipeline_arguments: more arguments of `tuft-pipelines run demo`.
        service_arguments: more arguments of `tuft`.

    Raises:
        DemoFailed: as said there.
        ServiceFailed: the service did not start.
    """
    started = time.monotonic()
    output = OutputFolder(folder)
    output.clear()
    with local_service(folder, say=say, arguments=service_arguments) as service:
        say(f"service ready at {service.url}")
        command = [sys.executable, "-m", "tuft_pipelines.cli", "run", "demo"]
        command += ["--output", str(folder), *pipeline_arguments]
        with child(command, env=service.env) as pipeline:
            code = pipeline.wait()
    if code != 0:
        raise DemoFailed(f"the pipeline ended with exit code {code} (logs: {folder / 'logs'})")
    say(f"done in {time.monotonic() - started:.0f} s; the service is stopped")
    verdict(output.history_file)


def verdict(history_file: Path) -> None:
    """Raise DemoFailed unless the held-out reward went from below 0.6 to above 0.9."""
    evaluations = json.loads(history_file.read_text())["evaluations"]
    before, after = (float(evaluations[index]["reward"]) for index in (0, -1))
    if not (before < BELOW_BEFORE and after > ABOVE_AFTER):
        raise DemoFailed(
            f"the mean held-out reward went from {before:.3f} to {after:.3f}; the demo should "
            f"take it from below {BELOW_BEFORE} to above {ABOVE_AFTER}"
        )
