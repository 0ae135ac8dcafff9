"""The share of unit tests that the code of a completion passes, run in a sandbox.

--param reward=unit_tests --param reward_args='{"credit": "all"}'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tuft_components.errors import BadData
from tuft_components.sandbox import Job, Limits, run_all, sandbox
from tuft_components.sandbox.tested import Test, code_in, test_job, tested, tests_of

if TYPE_CHECKING:
    from tuft_components.trajectories import Trajectory

CREDITS = ("share", "all")


class UnitTests:
    """The code is the last ``` block of the last completion, or all of it before a closing fence
    where no block is opened. The tests are `info["tests"]` of the last turn: statements such as
    `assert add(1, 2) == 3`, or {"input": …, "output": …} for a program that reads and prints.

    Code that is too long, does not compile, ends itself, loops or goes beyond a limit fails the
    tests that it did not get to. Equal code for equal tests is run once.

    Args:
        credit: `share` of the tests that it passed; `all` for 1 where it passed all, else 0.
        test_s: seconds for each test.
        longest: letters of code; more get 0.
        at_once: programs handed to the sandbox at the same time.
        limits: other limits than docs/sandboxes.md tells: {"cpu_s": 5, "memory_mb": 256, …}.
    """

    def __init__(
        self,
        *,
        credit: str = "share",
        test_s: float = 2.0,
        longest: int = 50_000,
        at_once: int = 16,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        if credit not in CREDITS:
            raise ValueError(f"credit is {credit!r}; there are: {', '.join(CREDITS)}")
        if test_s <= 0 or longest < 1 or at_once < 1:
            raise ValueError("test_s must be more than 0, longest and at_once 1 or more")
        try:
            self._limits = Limits(**(limits or {}))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(
                f"limits: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from error
        self._all = credit == "all"
        self._test_s, self._longest, self._at_once = test_s, longest, at_once
        self._rewards: dict[tuple[int, int, int], float] = {}

    def check(self) -> str:
        """For `preflight`: whether code can be run.

        Raises:
            BadConfiguration: it can't be, and why.
        """
        return f"code is run by {sandbox().check()}"

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        """Run the code of all of them.

        Raises:
            BadData: the environment gave no tests. BadConfiguration: code can't be run here.
        """
        jobs: dict[str, tuple[Job, Sequence[Test], list[tuple[int, int, int]]]] = {}
        for trajectory in trajectories:
            last = trajectory.transitions[-1]
            tests = self._tests(last.info)
            code = code_in(last.completion_text)
            if len(code) > self._longest:
                self._rewards[trajectory.key] = 0.0
                continue
            job = test_job(code, tests, self._limits, self._test_s)
            jobs.setdefault(job.model_dump_json(), (job, tests, []))[2].append(trajectory.key)
        results = run_all([job for job, _, _ in jobs.values()], at_once=self._at_once)
        for (_, tests, keys), result in zip(jobs.values(), results, strict=True):
            share = tested(result, tests).share
            for key in keys:
                self._rewards[key] = float(share == 1) if self._all else share

    def __call__(self, trajectory: Trajectory) -> float:
        if trajectory.key not in self._rewards:
            self.prepare([trajectory])
        return self._rewards[trajectory.key]

    def _tests(self, info: Mapping[str, Any]) -> Sequence[Test]:
        if "tests" not in info:
            raise BadData(
                'reward unit_tests runs info["tests"], which this environment does not give; its '
                f"info has: {', '.join(info) or 'nothing'}"
            )
        try:
            return tests_of(info["tests"])
        except ValueError as error:
            raise BadData(f'reward unit_tests: info["tests"]: {error}') from error
