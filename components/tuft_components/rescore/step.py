"""rescore: judge trajectories that are there already by another reward, without sampling again.

It says how the new reward compares with the old one: that of an earlier batch of the same
episodes, or what the environment said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tuft_components.batches import read_batch, write_batch
from tuft_components.errors import BadData
from tuft_components.feedback.step import (
    FeedbackInputs,
    FeedbackOutputs,
    JudgingParams,
    crediting_of,
    metadata_of,
)
from tuft_components.judging import judged_rows
from tuft_components.kept_episodes import read_episodes
from tuft_components.rescore.correlation import pearson, spearman
from tuft_components.rewards import (
    Keeping,
    judged,
    metrics_of,
    reward_function,
    rewards_of_turns,
)
from tuft_components.rewards.env import env_reward
from tuft_components.steps import Dataset, Locations, Metrics, Step
from tuft_components.trajectories import Trajectory, without_failed


class RescoreParams(JudgingParams):
    """As those of `feedback`."""


class RescoreInputs(FeedbackInputs):
    old_batch: Dataset | None = Field(
        default=None,
        description="An earlier batch of these episodes, whose rewards are the old ones. "
        "Left out: what the environment said.",
    )


class RescoreOutputs(FeedbackOutputs):
    metrics: Metrics = Field(
        description="As of feedback, and old_mean_reward, reward_change, pearson and spearman."
    )


def run(params: RescoreParams, inputs: RescoreInputs, locations: Locations) -> RescoreOutputs:
    how = crediting_of(params)  # a wrong name costs no judging
    reward = reward_function(params.reward, params.reward_args)
    given = [inputs.trajectories.uri] if inputs.trajectories else []
    played = read_episodes([*given, *params.trajectories_uris])
    trajectories = without_failed("the trajectories", played)
    old = _old_rewards(trajectories, inputs.old_batch)
    keeping = Keeping(params.work_uri, f"rescore-{params.iteration:06d}")
    new = judged(params.reward, reward, trajectories, keeping)
    of_turns = rewards_of_turns(params.reward, reward, trajectories, new)
    rows, metrics = judged_rows(trajectories, new, of_turns, how)
    metrics |= metrics_of(params.reward, reward)
    metrics |= {**compared(old, new), "failed": float(len(played) - len(trajectories))}
    return RescoreOutputs(
        batch=write_batch(locations["batch"], rows, metadata_of(params)),
        mean_reward=metrics["mean_reward"],
        metrics=metrics,
    )


def compared(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> Metrics:
    """Old and new rewards of the same episodes. Where one side is the same for all episodes there
    is no correlation, and no metric of it."""
    metrics = {
        "old_mean_reward": float(old.mean()),
        "reward_change": float(new.mean() - old.mean()),
    }
    for name, correlation in (("pearson", pearson), ("spearman", spearman)):
        value = correlation(old, new)
        if value is not None:
            metrics[name] = value
    return metrics


def _old_rewards(
    trajectories: Sequence[Trajectory], old_batch: Dataset | None
) -> npt.NDArray[np.float64]:
    if old_batch is None:
        return np.asarray([env_reward(trajectory) for trajectory in trajectories], dtype=np.float64)
    known = {row.key[:3]: row.reward for row in read_batch(old_batch.uri)}
    missing = [trajectory.key for trajectory in trajectories if trajectory.key not in known]
    if missing:
        raise BadData(
            f"{old_batch.uri} lacks {len(missing)} of {len(trajectories)} episodes, the first one "
            f"(iteration, group, sample) {missing[0]}: give a batch of the same trajectories"
        )
    return np.asarray([known[trajectory.key] for trajectory in trajectories], dtype=np.float64)


STEP = Step(
    name="rescore",
    summary="Judge stored trajectories by another reward, without sampling again.",
    params=RescoreParams,
    inputs=RescoreInputs,
    outputs=RescoreOutputs,
    run=run,
)
