"""The reward that the environment itself gave."""

from __future__ import annotations

from tuft_components.trajectories import Trajectory


def env_reward(trajectory: Trajectory) -> float:
    """The sum over the episode's turns."""
    return sum(transition.env_reward for transition in trajectory.transitions)


class EnvReward:
    """`env_reward`, and what each turn of it was given for."""

    def __init__(self) -> None:
        """It takes no arguments, and says so when it is given any."""

    def __call__(self, trajectory: Trajectory) -> float:
        return env_reward(trajectory)

    def turns(self, trajectory: Trajectory) -> list[float]:
        return [transition.env_reward for transition in trajectory.transitions]
