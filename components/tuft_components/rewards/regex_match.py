"""1 for a completion that a regular expression matches, else 0.

--param reward=regex --param reward_args='{"pattern": "Answer: (?P<answer>\\\\w+)"}'
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tuft_components.errors import BadData

if TYPE_CHECKING:
    from tuft_components.trajectories import Trajectory

_ANSWER = "answer"
_log = logging.getLogger(__name__)


class Regex:
    """Whether the pattern is in the last completion; with a group `(?P<answer>…)`, whether what that
    matched is `info["reference"]`, blanks around it aside.

    A pattern that takes longer than `timeout_s` on a completion, as some do on some texts, does
    not match it: that is told in the log.

    Args:
        pattern: as Python's `re` takes it.
        whole: it must match the whole completion, blanks around it aside.
        ignore_case: for the pattern, and for the answer.
        timeout_s: for a completion.
        longest: letters of a completion that are looked at, the last ones.
    """

    def __init__(
        self,
        *,
        pattern: str,
        whole: bool = False,
        ignore_case: bool = False,
        timeout_s: float = 1.0,
        longest: int = 20_000,
    ) -> None:
        # With time-outs, which `re` has not; the Tinker SDK brings it.
        import regex  # type: ignore[import-untyped]

        if not pattern:
            raise ValueError("pattern is empty: it would match everything")
        if timeout_s <= 0 or longest < 1:
            raise ValueError("timeout_s and longest must be more than 0")
        try:
            self._pattern = regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
        except regex.error as error:
            raise ValueError(f"pattern {pattern!r}: {error}") from error
        self._compares = _ANSWER in self._pattern.groupindex
        self._whole, self._ignore_case = whole, ignore_case
        self._timeout_s, self._longest = timeout_s, longest

    def __call__(self, trajectory: Trajectory) -> float:
        """Raises:
        BadData: the pattern has the group `answer`, and the environment gave no reference.
        """
        last = trajectory.transitions[-1]
        if self._compares and "reference" not in last.info:
            raise BadData(
                'reward regex compares its group `answer` with info["reference"], which this '
                f"environment does not give; its info has: {', '.join(last.info) or 'nothing'}"
            )
        text = last.completion_text[-self._longest :]
        try:
            if self._whole:
                found = self._pattern.fullmatch(text.strip(), timeout=self._timeout_s)
            else:
                found = self._pattern.search(text, timeout=self._timeout_s)
        except TimeoutError:
            _log.warning(
                "reward regex: the pattern took more than %g s for %s; it counts as no match",
                self._timeout_s,
                trajectory.key,
            )
            return 0.0
        if found is None or not self._compares:
            return float(found is not None)
        answers = (str(found.group(_ANSWER) or "").strip(), str(last.info["reference"]).strip())
        if self._ignore_case:
            answers = (answers[0].casefold(), answers[1].casefold())
        return float(answers[0] == answers[1])
