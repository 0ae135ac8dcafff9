"""Code that a model wrote, run where it can do no harm.

    result = sandbox().run(Job(code="print(6 * 7)"))

Either bubblewrap on this machine, or the sandbox runner that TUFT_SANDBOX_URL names. Where neither
can be had, it refuses and says why: code is never run without. docs/sandboxes.md tells what is
kept from it, and what a machine or cluster must allow.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

from tuft_components.sandbox.jobs import Job, Limits, Result

__all__ = ["Job", "Limits", "Result", "Sandbox", "run_all", "sandbox"]


class Sandbox(Protocol):
    """May be used by many threads at once; no more jobs than it has room for run at a time."""

    def run(self, job: Job) -> Result:
        """Run a program to its end, or to the first limit that it meets.

        Raises:
            BadConfiguration: it can't be run safely here. TransientFailure: not now.
        """
        ...

    def check(self) -> str:
        """What is used, in words.

        Raises:
            BadConfiguration: why nothing can be run. TransientFailure: the runner is away.
        """
        ...


def sandbox() -> Sandbox:
    """What this process runs code in: one, however often it is asked for."""
    url = os.environ.get("TUFT_SANDBOX_URL", "")
    return _remote(url, os.environ.get("TUFT_SANDBOX_TOKEN", "")) if url else _local()


@cache
def _local() -> Sandbox:
    from tuft_components.sandbox.local import LocalSandbox

    return LocalSandbox()


@cache
def _remote(url: str, token: str) -> Sandbox:
    from tuft_components.sandbox.remote import RemoteSandbox

    return RemoteSandbox(url, token)


def run_all(jobs: Sequence[Job], *, at_once: int = 16) -> list[Result]:
    """The results in the order of the jobs.

    Raises:
        What `Sandbox.run` raises, of the first job that did.
    """
    if not jobs:
        return []
    place = sandbox()
    place.check()
    with ThreadPoolExecutor(min(at_once, len(jobs)), thread_name_prefix="sandbox") as threads:
        return list(threads.map(place.run, jobs))
