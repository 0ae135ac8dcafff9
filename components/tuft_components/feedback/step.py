"""feedback: judge trajectories and turn them into a batch to train on.

Apart from the rollout, so that the same trajectories can be judged again by another reward.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tuft_components.batches import BatchRow, write_batch
from tuft_components.rewards import rewards_of
from tuft_components.rl.advantages import estimator
from tuft_components.rl.masks import completion_mask
from tuft_components.steps import Contract, Dataset, Locations, Metrics, Step, WorkUri
from tuft_components.trajectories import Trajectory, read_trajectories


class FeedbackParams(Contract):
    reward: str = Field(default="env", description="Reward: a name, or module:function.")
    advantage: str = Field(
        default="grpo_no_std",
        description="grpo, grpo_no_std, rloo, reinforce_pp or mean_baseline.",
    )
    drop_truncated: bool = Field(
        default=False, description="Do not train on completions cut off at the token limit."
    )
    iteration: int = Field(default=0, ge=0, description="Number of updates so far.")
    work_uri: WorkUri = ""


class FeedbackInputs(Contract):
    trajectories: Dataset = Field(description="Parquet of schema tuft.trajectories/1.")


class FeedbackOutputs(Contract):
    batch: Dataset = Field(description="Parquet of schema tuft.batch/1.")
    mean_reward: float = Field(description="Mean reward of the episodes.")
    metrics: Metrics = Field(description="Episodes, rewards and lengths in numbers.")


def run(params: FeedbackParams, inputs: FeedbackInputs, locations: Locations) -> FeedbackOutputs:
    estimate = estimator(params.advantage)
    trajectories = read_trajectories(inputs.trajectories.uri)
    rewards = rewards_of(params.reward, trajectories)
    tasks = [trajectory.key[:2] for trajectory in trajectories]
    numbers = {task: number for number, task in enumerate(sorted(set(tasks)))}
    groups = np.asarray([numbers[task] for task in tasks], dtype=np.int64)
    advantages = estimate(rewards, groups)
    rows = [
        row
        for trajectory, reward, advantage in zip(trajectories, rewards, advantages, strict=True)
        for row in _rows(trajectory, float(reward), float(advantage), params.drop_truncated)
    ]
    metrics = {
        "episodes": float(len(trajectories)),
        "groups": float(len(numbers)),
        "mean_reward": float(rewards.mean()),
        "std_reward": float(rewards.std()),
        "groups_with_signal": float(len(set(groups[advantages != 0].tolist()))),
        "mean_completion_tokens": float(np.mean([len(row.completion_tokens) for row in rows])),
        "mean_turns": len(rows) / len(trajectories),
    }
    batch = write_batch(
        locations["batch"],
        rows,
        {"reward": params.reward, "advantage": params.advantage},
    )
    return FeedbackOutputs(batch=batch, mean_reward=metrics["mean_reward"], metrics=metrics)


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


STEP = Step(
    name="feedback",
    summary="Judge trajectories and turn them into a batch to train on.",
    params=FeedbackParams,
    inputs=FeedbackInputs,
    outputs=FeedbackOutputs,
    run=run,
)
