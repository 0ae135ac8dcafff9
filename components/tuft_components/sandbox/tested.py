"""Code against its unit tests, in a sandbox.

A test is either statements, such as `assert add(1, 2) == 3`, or a program's input and output:
`{"input": "1 2", "output": "3"}`. Statements run in another process than the code, which sees
neither the tests nor what they expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuft_components.sandbox.inside import source
from tuft_components.sandbox.jobs import Job, Limits, Result

Test = str | Mapping[str, str]

MOST = 300
"""Tests of a task."""


@dataclass(frozen=True)
class Tested:
    """`wrong` has a text for each test: what was wrong, or nothing where it passed."""

    wrong: Sequence[str]

    @property
    def passed(self) -> int:
        return sum(not text for text in self.wrong)

    @property
    def share(self) -> float:
        return self.passed / len(self.wrong)


def tests_of(given: Any) -> list[Test]:
    """The tests that a task came with.

    Raises:
        ValueError: what is wrong with them.
    """
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError("tests must be a list")  # noqa: TRY004  # what is given is data
    if not 1 <= len(given) <= MOST:
        raise ValueError(f"there are {len(given)} tests: give 1 to {MOST}")
    for test in given:
        program = isinstance(test, Mapping) and set(test) == {"input", "output"}
        texts = test.values() if program else [test]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                'a test is Python statements, or {"input": …, "output": …} with two texts; '
                f"this is {str(test)[:100]!r}"
            )
    return list(given)


def test_job(code: str, tests: Sequence[Test], limits: Limits, test_s: float) -> Job:
    """What `run` takes; `test_s` is the time for each test."""
    programs = {"plain.py": source("plain"), "worker.py": source("worker"), "solution.py": code}
    given = [test if isinstance(test, str) else dict(test) for test in tests]
    return Job(
        code=source("tester"),
        files=programs,
        stdin=json.dumps({"tests": given, "test_s": test_s}),
        # The report is a line for each test, and must not be shortened.
        limits=limits.model_copy(update={"kept_kb": 16 + 3 * len(tests)}),
    )


def tested(result: Result, tests: Sequence[Test]) -> Tested:
    """What came of the job."""
    why = f"the limit {result.limit}" if result.limit else f"exit status {result.status}"
    wrong = [f"not reached: {why}"] * len(tests)
    for line in result.stdout.splitlines():
        number, text = json.loads(line)
        wrong[number] = text
    return Tested(wrong)


def code_in(text: str) -> str:
    """The last ``` block. Without one: all before a closing fence, or all there is, since a prompt
    may have opened the block itself."""
    parts = text.split("```")
    if len(parts) < 3:
        if len(parts) == 2 and _opens(parts):
            return _without_language(parts[1])
        return parts[0]
    # Blocks are at odd places; the last one may not have been closed.
    return _without_language(parts[len(parts) - 1 if len(parts) % 2 == 0 else len(parts) - 2])


def _opens(parts: Sequence[str]) -> bool:
    """Whether a single fence begins a block: a language stands behind it, or nothing before it."""
    return not parts[0].strip() or parts[1].split("\n", 1)[0].strip().lower() in _LANGUAGES


_LANGUAGES = ("python", "python3", "py")


def _without_language(block: str) -> str:
    first, line, rest = block.partition("\n")
    return rest if line and (not first.strip() or first.strip().isalnum()) else block
