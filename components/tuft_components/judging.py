"""From trajectories and their rewards to the rows of a batch, and numbers about them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tuft_components.batches import BatchRow
from tuft_components.rl.advantages import Floats, estimator
from tuft_components.rl.masks import completion_mask
from tuft_components.rl.returns import turn_advantages
from tuft_components.shaping import Shaping, shaped
from tuft_components.steps import Metrics
from tuft_components.trajectories import Trajectory

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crediting:
    """How rewards become advantages; as the parameters of `feedback` say it."""

    advantage: str = "grpo_no_std"
    credit: str = "episode"
    gamma: float = 1.0
    shaping: Shaping = field(default_factory=Shaping)
    drop_truncated: bool = False


def judged_rows(
    trajectories: Sequence[Trajectory],
    rewards: npt.NDArray[np.float64],
    of_turns: Sequence[npt.NDArray[np.float64]],
    how: Crediting,
) -> tuple[list[BatchRow], Metrics]:
    """Rows in the order of the trajectories, and metrics.

    Args:
        rewards: of whole episodes: what is told.
        of_turns: of each episode's turns: what advantages come of.

    Raises:
        BadConfiguration: no such advantage. BadData: shaping lacks what it needs.
    """
    tasks = [trajectory.key[:2] for trajectory in trajectories]
    numbers = {task: number for number, task in enumerate(sorted(set(tasks)))}
    groups = np.asarray([numbers[task] for task in tasks], dtype=np.int64)
    trained = shaped(trajectories, of_turns, how.shaping, how.gamma)
    advantages = _advantages(trained, groups, how)
    rows = [
        row
        for trajectory, reward, values in zip(trajectories, rewards, advantages, strict=True)
        for row in _rows(trajectory, float(reward), values, how.drop_truncated)
    ]
    differ = np.asarray([bool(np.any(values != 0)) for values in advantages])
    with_signal = len(set(groups[differ].tolist()))
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
    if how.shaping != Shaping():
        metrics["mean_shaped_reward"] = float(np.mean([each.sum() for each in trained]))
    return rows, metrics


def _advantages(
    of_turns: Sequence[npt.NDArray[np.float64]], groups: npt.NDArray[np.int64], how: Crediting
) -> list[Floats]:
    """Of each episode's turns."""
    estimate = estimator(how.advantage)
    if how.credit == "turn":
        return turn_advantages(of_turns, groups, how.gamma, estimate)
    of_episodes = estimate(np.asarray([each.sum() for each in of_turns]), groups)
    return [
        np.full(len(each), value, dtype=np.float32)
        for each, value in zip(of_turns, of_episodes, strict=True)
    ]


def _rows(
    trajectory: Trajectory, reward: float, advantages: Floats, drop_truncated: bool
) -> list[BatchRow]:
    """A turn's advantage is that of each of its tokens."""
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
            advantages=[float(advantage)] * len(transition.completion_tokens),
            mask=completion_mask(
                len(transition.completion_tokens),
                truncated=transition.stop_reason == "length",
                drop_truncated=drop_truncated,
            ).tolist(),
        )
        for transition, advantage in zip(trajectory.transitions, advantages, strict=True)
    ]
