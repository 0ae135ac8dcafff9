"""Executions that are under way, and the results of those that were.

Nothing here outlives the process. An execution that is lost with it is made again when Argo asks
again: steps may be executed again at any time, and the service's ledger makes that harmless.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from tuft_components.argo_plugin.calls import Call
from tuft_components.argo_plugin.step_process import Outcome, run_step
from tuft_components.argo_plugin.wire import Phase, Reply
from tuft_components.errors import ExitCode

log = logging.getLogger(__name__)

_FIRST_REQUEUE_S = 5
_LAST_REQUEUE_S = 30
_LONGEST_BACKOFF_S = 60.0


class Stopping(Exception):
    """The plugin is about to end: ask the next one."""


@dataclass(frozen=True)
class Limits:
    """Of the plugin: what its command line sets."""

    workers: int = 4
    """Steps at the same time: each is a process."""
    wait_s: float = 10.0
    """How long a request waits for its step. Argo's agent gives up after 30 s."""
    tries: int = 3
    """Of a step that ends with 75, or is killed, before the node is an error."""
    backoff_s: float = 5.0
    """Before the second try; then doubled, up to a minute."""
    keep_s: float = 3600.0
    """How long the result of a step that succeeded is kept."""
    most: int = 1000
    """Executions under way and results kept, together."""


@dataclass(eq=False)
class _Execution:
    call: Call
    begun_at: float = field(default_factory=time.monotonic)
    finished_at: float = 0.0
    state: str = "waits for a worker"
    running: bool = False
    task: asyncio.Task[Outcome] = field(init=False)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun_at


class Executions:
    """Runs calls, each key once at a time, and tells what became of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_key: dict[str, _Execution] = {}
        self._workers = asyncio.Semaphore(limits.workers)
        self._stopping = asyncio.Event()

    async def ask(self, call: Call) -> Reply:
        """Start the call unless it is under way or done, wait for it a little, and tell.

        Raises:
            Stopping: the process is about to end.
        """
        if self._stopping.is_set():
            raise Stopping
        self._forget_old()
        execution = self._by_key.get(call.key)
        if execution is None:
            if not self._make_room():
                return Reply("Pending", "the plugin has no room yet", {}, requeue_s=_LAST_REQUEUE_S)
            execution = self._start(call)
        await self._wait_for(execution.task)
        if not execution.task.done():
            phase: Phase = "Running" if execution.running else "Pending"
            message = f"{call.step} {execution.state}, {execution.seconds:.0f} s so far"
            requeue_s = min(max(_FIRST_REQUEUE_S, round(execution.seconds / 5)), _LAST_REQUEUE_S)
            return Reply(phase, message, {}, requeue_s=requeue_s)
        return self._told(execution)

    async def close(self) -> None:
        """End everything; who waits is told at once."""
        self._stopping.set()
        tasks = [execution.task for execution in self._by_key.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, call: Call) -> _Execution:
        execution = _Execution(call)
        execution.task = asyncio.create_task(self._execute(execution), name=call.key)
        self._by_key[call.key] = execution
        return execution

    async def _wait_for(self, task: asyncio.Task[Outcome]) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {task, stopping},
                timeout=self._limits.wait_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            stopping.cancel()
        if self._stopping.is_set():
            raise Stopping

    async def _execute(self, execution: _Execution) -> Outcome:
        call, limits = execution.call, self._limits
        name = f"{call.step} {call.key[:8]}"
        backoff_s = limits.backoff_s
        for number in range(1, limits.tries + 1):
            async with self._workers:
                execution.running = True
                execution.state = f"runs (try {number} of {limits.tries})"
                log.info("%s: try %d of %d", name, number, limits.tries)
                try:
                    outcome = await run_step(name, call.arguments())
                except OSError as error:  # a full disk, no memory for one more process
                    log.exception("%s: its process can't run", name)
                    outcome = Outcome(ExitCode.TRANSIENT, {}, f"its process can't run: {error}")
                log.info("%s: exit code %d", name, outcome.code)
            if not outcome.transient or number == limits.tries:
                break
            execution.state = f"tries again soon, after: {outcome.message}"
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
        execution.finished_at = time.monotonic()
        return outcome

    def _told(self, execution: _Execution) -> Reply:
        """The result. A failure is told to those who wait for it and forgotten: when it is asked
        for again, Argo wants the step to be tried again, or has not heard, which is the same."""
        call = execution.call
        try:
            outcome = execution.task.result()
        except BaseException:
            # Whatever it was, also an interruption: asked for again, it is tried again.
            self._forget(execution)
            raise
        if outcome.code == ExitCode.OK:
            return Reply("Succeeded", "", call.output_parameters(outcome.outputs), exit_code=0)
        self._forget(execution)
        if not outcome.transient:
            return Reply("Failed", outcome.message, {}, exit_code=outcome.code)
        code = outcome.code if outcome.code > 0 else 128 - outcome.code  # as a pod's
        message = f"{call.step} failed {self._limits.tries} times, at last: {outcome.message}"
        return Reply("Error", message, {}, exit_code=code)

    def _forget(self, execution: _Execution) -> None:
        # Another may have begun meanwhile, where several were told of this one.
        if self._by_key.get(execution.call.key) is execution:
            del self._by_key[execution.call.key]

    def _forget_old(self) -> None:
        oldest = time.monotonic() - self._limits.keep_s
        for execution in self._done():
            if execution.finished_at < oldest:
                self._forget(execution)

    def _make_room(self) -> bool:
        """For one more execution, by forgetting the oldest result. Whether there is room."""
        if len(self._by_key) >= self._limits.most:
            for execution in self._done()[:1]:
                self._forget(execution)
        return len(self._by_key) < self._limits.most

    def _done(self) -> list[_Execution]:
        """The oldest first."""
        done = [execution for execution in self._by_key.values() if execution.task.done()]
        return sorted(done, key=lambda execution: execution.finished_at)
