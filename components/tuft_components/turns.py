"""An episode as people and judges read it: turn by turn, what came in and what the policy said."""

from __future__ import annotations

from dataclasses import dataclass

from tuft_components.trajectories import Trajectory


@dataclass(frozen=True)
class Turn:
    """`seen` is what came since the policy's last words."""

    seen: str
    said: str
    stop_reason: str


def turns_of(trajectory: Trajectory) -> list[Turn]:
    turns, before = [], ""
    for turn in trajectory.transitions:
        # Messages are formatted anew each turn, so that the text need not go on as it was.
        seen = turn.prompt_text.removeprefix(before)
        turns.append(Turn(seen, turn.completion_text, turn.stop_reason))
        before = turn.prompt_text + turn.completion_text
    return turns


def shortened(text: str, longest: int) -> str:
    """At most about `longest` letters: of a longer text the middle is left out."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} letters …\n{text[-half:]}"
