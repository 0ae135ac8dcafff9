"""1 for the exact word, else 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuft_components.errors import BadData

if TYPE_CHECKING:
    from tuft_components.trajectories import Trajectory


def first_word(text: str) -> str:
    """The first word of the text, or "" where there is none."""
    words = text.split(maxsplit=1)
    return words[0] if words else ""


def exact_match(trajectory: Trajectory) -> float:
    """Whether the last completion's first word equals `info["reference"]`.

    Raises:
        BadData: the environment gave no reference.
    """
    last = trajectory.transitions[-1]
    if "reference" not in last.info:
        raise BadData(
            'reward exact_match compares with info["reference"], which this environment does '
            f"not give; its info has: {', '.join(last.info) or 'nothing'}"
        )
    return 1.0 if first_word(last.completion_text) == str(last.info["reference"]) else 0.0
