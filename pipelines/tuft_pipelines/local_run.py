"""Run a pipeline on this machine with Kubeflow's own local runner, and read what it made.

kfp.local reports success in cases where a task did not run (a lone `dsl.If`, say), so that
nothing here trusts its status alone: results are read from the tasks' executor outputs, and
a task without one is a failure.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tuft_pipelines.errors import PipelineFailed

_POLL_S = 0.1
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FAILED_TASK = re.compile(r"Inner task failed: '([^']+)'")
# Blank lines, KFP's own remarks, and the executor input (JSON, indented) that it shows.
_CHATTER = re.compile(r"""\s*($|\[KFP Executor|[]["{}])|-+$""")
_TAIL_LINES = 20


@dataclass(frozen=True)
class Artifact:
    """Where an output artifact is, and its metadata (scalars of Metrics are there too)."""

    uri: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class TaskResult:
    """What a task wrote. `name` is the display name; `seconds` since the task before it ended."""

    name: str
    parameters: Mapping[str, Any]
    artifacts: Mapping[str, Artifact]
    seconds: float


def run_locally(
    pipeline: Any,
    arguments: Mapping[str, Any],
    *,
    folder: Path,
    log_file: Path,
    on_task: Callable[[TaskResult], None] = lambda _task: None,
) -> dict[str, TaskResult]:
    """Run a `@dsl.pipeline` function, task by task, each in a process of its own.

    Args:
        pipeline: of lightweight components only; every task is to run exactly once.
        arguments: of the pipeline.
        folder: pipeline root; artifacts stay there.
        log_file: gets everything that KFP and the tasks print; appended to.
        on_task: called from another thread with each task as it finishes, in that order.

    Returns:
        The tasks' results by display name, in the order in which they finished.

    Raises:
        PipelineFailed: as said there.
    """
    from kfp import local

    folder.mkdir(parents=True, exist_ok=True)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder.resolve()))
    watcher = _Watcher(folder, display_names(pipeline), on_task)
    with log_file.open("a", encoding="utf-8") as file:
        try:
            with (
                watcher.watching(),
                contextlib.redirect_stdout(_PlainText(file)),
                warnings.catch_warnings(),
            ):
                # Display names, limits and the like are for the cluster, as is the image's name.
                warnings.filterwarnings("ignore", ".* have no effect in the current local runner")
                warnings.filterwarnings("ignore", ".*custom or non-Python base image")
                pipeline(**arguments)
        except RuntimeError as error:
            # What kfp.local raises for a failed task, and for a component that it can't run.
            message = _COLOURS.sub("", str(error))
            if task := _FAILED_TASK.search(message):
                message = f"{watcher.names.get(task[1], task[1])} failed"
            raise PipelineFailed(f"{message}; {_tail(log_file)}") from error
    missing = [name for name in watcher.names.values() if name not in watcher.results]
    if missing:
        raise PipelineFailed(
            f"the runner reported success, but these tasks have no output: {', '.join(missing)}; "
            f"{_tail(log_file)}"
        )
    return watcher.results


class _Watcher:
    """Sees executor outputs appear below the pipeline root."""

    def __init__(
        self, root: Path, names: dict[str, str], on_task: Callable[[TaskResult], None]
    ) -> None:
        self.names = names
        self.results: dict[str, TaskResult] = {}
        self._root = root
        self._earlier = set(root.iterdir())
        self._on_task = on_task
        self._done = threading.Event()
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, name="kfp-outputs", daemon=True)
        self._last = time.monotonic()
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            self._look()

    def _watch(self) -> None:
        while not self._done.wait(_POLL_S):
            self._look()

    def _look(self) -> None:
        found = []
        for run in set(self._root.iterdir()) - self._earlier:
            for component, name in self.names.items():
                file = run / component / "executor_output.json"
                if name not in self.results and file.is_file():
                    found.append((file.stat().st_mtime, name, file))
        for _, name, file in sorted(found):
            try:
                output = json.loads(file.read_text())
            except json.JSONDecodeError:
                return  # still being written; the next look finds it whole
            now = time.monotonic()
            self.results[name] = _result(name, output, now - self._last)
            self._last = now
            self._on_task(self.results[name])


def display_names(pipeline: Any) -> dict[str, str]:
    """Folder of a task below the run's folder (named by its component) -> display name."""
    tasks = pipeline.pipeline_spec.root.dag.tasks
    return {
        task.component_ref.name.removeprefix("comp-"): task.task_info.name or name
        for name, task in sorted(tasks.items())
    }


def _result(name: str, output: dict[str, Any], seconds: float) -> TaskResult:
    artifacts = {
        key: Artifact(uri=item["artifacts"][0]["uri"], metadata=item["artifacts"][0]["metadata"])
        for key, item in output.get("artifacts", {}).items()
        if item["artifacts"]
    }
    return TaskResult(name, output.get("parameterValues", {}), artifacts, seconds)


class _PlainText:
    """A text stream into `file`, less the terminal colours."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        self._file.write(_COLOURS.sub("", text))
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def _tail(log_file: Path) -> str:
    lines = [line for line in log_file.read_text().splitlines() if not _CHATTER.match(line)]
    return "\n".join([f"the end of {log_file}:", *(f"  {line}" for line in lines[-_TAIL_LINES:])])
