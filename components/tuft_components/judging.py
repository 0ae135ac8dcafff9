"""From trajectories and their rewards to the rows of a batch, and numbers about them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tuft_components.batches import BatchRow
from tuft_components.rl.advantages import estimator
from tuft_components.rl.masks import completion_mask
from tuft_components.steps import Metrics
from tuft_components.trajectories import Trajectory

_log = logging.getLogger(__name__)


def judged_rows(
    trajectories: Sequence[Trajectory],
    rewards: npt.NDArray[np.float64],
    *,
    advantage: str,
    drop_truncated: bool,
) -> tuple[list[BatchRow], Metrics]:
    """Rows in the order of the trajectories, and metrics.

    Raises:
        BadConfiguration: no such advantage.
    """
    estimate = estimator(advantage)
    tasks = [trajectory.key[:2] for trajectory in trajectories]
    numbers = {task: number for number, task in enumerate(sorted(set(tasks)))}
    groups = np.asarray([numbers[task] for task in tasks], dtype=np.int64)
    advantages = estimate(rewards, groups)
    rows = [
        row
        for trajectory, reward, value in zip(trajectories, rewards, advantages, strict=True)
        for row in _rows(trajectory, float(reward), float(value), drop_truncated)
    ]
    with_signal = len(set(groups[advantages != 0].tolist()))
    if with_signal == 0:
        _log.warning(
            "no group has rewards that differ (mean %.3f over %d episodes): an update on this "
            "batch changes nothing; more samples a group, or other tasks, would help",
            rewards.mean(),
            len(trajectories),
        )
    truncated = [t.stop_reason == "length" for one in trajectories for t in one.transitions]
    metrics = {
        "episodes": float(len(trajectories)),
        "groups": float(len(numbers)),
        "mean_reward": float(rewards.mean()),
        "std_reward": float(rewards.std()),
        "groups_with_signal": float(with_signal),
        "mean_completion_tokens": float(np.mean([len(row.completion_tokens) for row in rows])),
        "mean_turns": len(rows) / len(trajectories),
        "truncated": float(np.mean(truncated)),
    }
    return rows, metrics


def _rows(
    trajectory: Trajectory, reward: float, advantage: float, drop_truncated: bool
) -> list[BatchRow]:
    """An episode's advantage is that of each of its tokens."""
    return [
        BatchRow(
            iteration=transition.iteration,
            group_id=transition.group_id,
            sample=transition.sample,
            turn=transition.turn,
            policy=transition.policy,
            policy_version=transition.policy_version,
            prompt_tokens=transition.prompt_tokens,
            completion_tokens=transition.completion_tokens,
            logprobs=transition.logprobs,
            reward=reward,
            advantages=[advantage] * len(transition.completion_tokens),
            mask=completion_mask(
                len(transition.completion_tokens),
                truncated=transition.stop_reason == "length",
                drop_truncated=drop_truncated,
            ).tolist(),
        )
        for transition in trajectory.transitions
    ]
