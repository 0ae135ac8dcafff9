"""The reward that the environment itself gave."""

from __future__ import annotations

from tuft_components.trajectories import Trajectory


def env_reward(trajectory: Trajectory) -> float:
    """The sum over the episode's turns."""
    return sum(transition.env_reward for transition in trajectory.transitions)
