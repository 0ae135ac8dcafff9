"""feedback: judge trajectories and turn them into a batch to train on.

Apart from the rollout, so that the same trajectories can be judged again by another reward.
"""

from __future__ import annotations

from pydantic import Field

from tuft_components.batches import write_batch
from tuft_components.judging import judged_rows
from tuft_components.kept_episodes import read_episodes
from tuft_components.rewards import judged, reward_function
from tuft_components.rl.advantages import estimator
from tuft_components.steps import (
    Contract,
    Dataset,
    JsonList,
    JsonObject,
    Locations,
    Metrics,
    Step,
    WorkUri,
)
from tuft_components.trajectories import without_failed


class FeedbackParams(Contract):
    reward: str = Field(default="env", description="Reward: a name, or module:attribute.")
    reward_args: JsonObject = Field(default={}, description="JSON object for the reward.")
    advantage: str = Field(
        default="grpo_no_std",
        description="grpo, grpo_no_std, rloo, reinforce_pp or mean_baseline.",
    )
    drop_truncated: bool = Field(
        default=False, description="Do not train on completions cut off at the token limit."
    )
    trajectories_uris: JsonList = Field(
        default=[],
        description="More trajectories: JSON array of files and prefixes (the `uri` of rollouts).",
    )
    iteration: int = Field(default=0, ge=0, description="Number of updates so far.")
    work_uri: WorkUri = ""


class FeedbackInputs(Contract):
    trajectories: Dataset | None = Field(
        default=None, description="Parquet of schema tuft.trajectories/3."
    )


class FeedbackOutputs(Contract):
    batch: Dataset = Field(description="Parquet of schema tuft.batch/1.")
    mean_reward: float = Field(description="Mean reward of the episodes.")
    metrics: Metrics = Field(description="Episodes, rewards and lengths in numbers.")


def run(params: FeedbackParams, inputs: FeedbackInputs, locations: Locations) -> FeedbackOutputs:
    estimator(params.advantage)  # a wrong name costs no judging
    reward = reward_function(params.reward, params.reward_args)
    given = [inputs.trajectories.uri] if inputs.trajectories else []
    played = read_episodes([*given, *params.trajectories_uris])
    trajectories = without_failed("the trajectories", played)
    rows, metrics = judged_rows(
        trajectories,
        judged(params.reward, reward, trajectories),
        advantage=params.advantage,
        drop_truncated=params.drop_truncated,
    )
    metadata = {"reward": params.reward, "advantage": params.advantage}
    return FeedbackOutputs(
        batch=write_batch(locations["batch"], rows, metadata),
        mean_reward=metrics["mean_reward"],
        metrics={**metrics, "failed": float(len(played) - len(trajectories))},
    )


STEP = Step(
    name="feedback",
    summary="Judge trajectories and turn them into a batch to train on.",
    params=FeedbackParams,
    inputs=FeedbackInputs,
    outputs=FeedbackOutputs,
    run=run,
)
