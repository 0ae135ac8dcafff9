"""What both engines on a cluster can be asked for: submit, status, logs, and submit again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tuft_components.profile import Profile


@dataclass(frozen=True)
class TaskStatus:
    """`pods` are those that did its work, the last try last."""

    name: str
    state: str
    message: str = ""
    pods: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.state.upper() in ("FAILED", "ERROR")


@dataclass(frozen=True)
class RunStatus:
    """Of a pipeline run on a cluster; `state` in the engine's own words."""

    run_id: str
    pipeline: str
    state: str
    message: str
    arguments: Mapping[str, Any]
    tasks: Sequence[TaskStatus]


class Engine(Protocol):
    """A server that runs pipelines.

    Raises:
        WrongArgument: it is not said where the server is, or there is no such run or task.
        RemoteFailed: the server can't be reached, refuses, or fails.
    """

    def submit(
        self, name: str, build: Sequence[str], settings: Sequence[str], profile: Profile
    ) -> str:
        """Start the ready pipeline of that name; the id of the run."""
        ...

    def status(self, run_id: str) -> RunStatus: ...

    def logs(self, run_id: str, pod: str) -> Iterator[str]:
        """Lines that the step in that pod has printed so far."""
        ...

    def resume(self, run_id: str) -> str:
        """Submit the same pipeline with the same arguments again; the id of the new run.

        With its `name` it finds its training run, finished updates and kept episodes.
        """
        ...


def lines_of(status: RunStatus) -> Iterator[str]:
    """For a terminal."""
    yield f"{status.run_id}  {status.pipeline}  {status.state}"
    if status.message:
        yield f"  {status.message}"
    width = max((len(task.name) for task in status.tasks), default=0)
    for task in status.tasks:
        yield f"  {task.name:<{width}}  {task.state:<10}  {task.message}".rstrip()
    if name := status.arguments.get("name"):
        yield f"  name={name}"
