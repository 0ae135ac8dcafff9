"""Rewards of tests, found by their import path; light to import, since each step does."""

from __future__ import annotations

from tuft_components.trajectories import Trajectory


def even_first_token(trajectory: Trajectory) -> float:
    """What a random model gets about half of the time."""
    return float(trajectory.transitions[0].completion_tokens[0] % 2 == 0)


def never(trajectory: Trajectory) -> float:
    """No signal: every episode is equally bad."""
    return 0.0
