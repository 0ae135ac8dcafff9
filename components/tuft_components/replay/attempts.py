"""A failed attempt as text, and the hint that shows it to the policy.

The hint is part of the prompt: it has no loss, and the tokens that are sampled are those of a new
attempt. What the environment tells only to rewards (its `info`, with the answer) is not in it, but
for `info["hint"]`, where an environment gives that.
"""

from __future__ import annotations

from tuft_components.replay.records import TaskRecord
from tuft_components.trajectories import Trajectory
from tuft_components.turns import shortened, turns_of

LONGEST = 600
"""Letters of an attempt: a prompt has room for other things."""


def attempt_of(trajectory: Trajectory) -> str:
    """What the policy said, what came back, and what was wrong with it."""
    lines: list[str] = []
    for number, (turn, transition) in enumerate(
        zip(turns_of(trajectory), trajectory.transitions, strict=True)
    ):
        if number and turn.seen.strip():
            lines.append(turn.seen.strip())
        lines.append(f"> {turn.said.strip()}")
        hint = transition.info.get("hint")
        lines += [text for text in (transition.error, hint) if text and isinstance(text, str)]
    return shortened("\n".join(lines), LONGEST)


def hint_from(failure: TaskRecord) -> str:
    """What goes in front of the task; empty where nothing is known of the attempt."""
    if not failure.attempt:
        return ""
    return f"An earlier attempt at this task failed:\n{failure.attempt}\n\nAnother attempt:\n"
