"""1 for the right number, else 0.

--param reward=numeric --param reward_args='{"tolerance": 0.01}'
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from tuft_components.errors import BadData
from tuft_components.rewards.answers import PLACES, answer_in

if TYPE_CHECKING:
    from tuft_components.trajectories import Trajectory


class Numeric:
    """Whether the last completion's number equals `info["reference"]`, a number or a text with one.

    The number is the one in the last \\boxed{}, or behind ####, or the last of the text. It may be
    written as 1,234.5, $5, 3/4, \\frac{3}{4} or 1e-3; only the last 20,000 letters are looked at. A
    completion without a number gets 0, and so does `nan` or `inf`.

    Args:
        tolerance: how far off it may be.
        relative: how far off it may be, as a share of the reference; the larger of the two counts.
        place: `boxed`, `hashes` or `last`, to look there only; `auto` for the first that there is.
    """

    def __init__(
        self, *, tolerance: float = 1e-6, relative: float = 0.0, place: str = "auto"
    ) -> None:
        if place not in PLACES:
            raise ValueError(f"place is {place!r}; there are: {', '.join(PLACES)}")
        if not all(math.isfinite(part) and part >= 0 for part in (tolerance, relative)):
            raise ValueError("tolerance and relative must be 0 or more")
        self._tolerance, self._relative = Fraction(tolerance), Fraction(relative)
        self._place = place

    def __call__(self, trajectory: Trajectory) -> float:
        """Raises:
        BadData: the environment gave no reference, or one without a number.
        """
        last = trajectory.transitions[-1]
        if "reference" not in last.info:
            raise BadData(
                'reward numeric compares with info["reference"], which this environment does not '
                f"give; its info has: {', '.join(last.info) or 'nothing'}"
            )
        wanted = answer_in(str(last.info["reference"]))
        if wanted is None:
            raise BadData(
                f'reward numeric: info["reference"] is {str(last.info["reference"])[:100]!r}: '
                "there is no number in it"
            )
        found = answer_in(last.completion_text, self._place)
        if found is None:
            return 0.0
        allowed = max(self._tolerance, self._relative * abs(wanted))
        return float(abs(found - wanted) <= allowed)
