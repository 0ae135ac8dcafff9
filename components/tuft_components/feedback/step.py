"""feedback: judge trajectories and turn them into a batch to train on.

Apart from the rollout, so that the same trajectories can be judged again by another reward.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuft_components.batches import write_batch
from tuft_components.judging import Crediting, judged_rows
from tuft_components.kept_episodes import read_episodes
from tuft_components.replay.choosing import needs_work_uri
from tuft_components.replay.recording import remember
from tuft_components.rewards import (
    Keeping,
    judged,
    metrics_of,
    reward_function,
    rewards_of_turns,
)
from tuft_components.rl.advantages import estimator
from tuft_components.shaping import shaping_of
from tuft_components.steps import (
    Contract,
    Dataset,
    JsonList,
    JsonObject,
    Locations,
    Metrics,
    ReplayRatio,
    Step,
    WorkUri,
)
from tuft_components.trajectories import without_failed


class JudgingParams(Contract):
    """What `rescore` has as well."""

    reward: str = Field(default="env", description="Reward: a name, or module:attribute.")
    reward_args: JsonObject = Field(default={}, description="JSON object for the reward.")
    advantage: str = Field(
        default="grpo_no_std",
        description="grpo, grpo_no_std, rloo, reinforce_pp or mean_baseline.",
    )
    drop_truncated: bool = Field(
        default=False, description="Do not train on completions cut off at the token limit."
    )
    credit: Literal["episode", "turn"] = Field(
        default="episode",
        description="episode: every turn has the advantage of the whole; turn: each that of what "
        "came from it on.",
    )
    gamma: float = Field(
        default=1.0, ge=0, le=1, description="Discount from turn to turn, for credit=turn."
    )
    shaping: JsonObject = Field(
        default={},
        description="JSON object: changes to rewards before advantages (docs/feedback.md).",
    )
    trajectories_uris: JsonList = Field(
        default=[],
        description="More trajectories: JSON array of files and prefixes (the `uri` of rollouts).",
    )
    iteration: int = Field(default=0, ge=0, description="Number of updates so far.")
    work_uri: WorkUri = ""


class FeedbackParams(JudgingParams):
    replay_ratio: ReplayRatio = 0.0
    replay_below: float = Field(
        default=1.0, description="An episode with a reward less than this has failed, for replay."
    )


class FeedbackInputs(Contract):
    trajectories: Dataset | None = Field(
        default=None, description="Parquet of schema tuft.trajectories/3."
    )


class FeedbackOutputs(Contract):
    batch: Dataset = Field(description="Parquet of schema tuft.batch/1.")
    mean_reward: float = Field(description="Mean reward of the episodes.")
    metrics: Metrics = Field(description="Episodes, rewards and lengths in numbers.")


def run(params: FeedbackParams, inputs: FeedbackInputs, locations: Locations) -> FeedbackOutputs:
    how = crediting_of(params)  # a wrong name costs no judging
    needs_work_uri(params.replay_ratio, params.work_uri)
    reward = reward_function(params.reward, params.reward_args)
    given = [inputs.trajectories.uri] if inputs.trajectories else []
    played = read_episodes([*given, *params.trajectories_uris])
    trajectories = without_failed("the trajectories", played)
    keeping = Keeping(params.work_uri, f"feedback-{params.iteration:06d}")
    rewards = judged(params.reward, reward, trajectories, keeping)
    of_turns = rewards_of_turns(params.reward, reward, trajectories, rewards)
    rows, metrics = judged_rows(trajectories, rewards, of_turns, how)
    metrics |= metrics_of(params.reward, reward)
    if params.replay_ratio:
        metrics |= remember(
            params.work_uri, params.iteration, trajectories, rewards, below=params.replay_below
        )
    return FeedbackOutputs(
        batch=write_batch(locations["batch"], rows, metadata_of(params)),
        mean_reward=metrics["mean_reward"],
        metrics={**metrics, "failed": float(len(played) - len(trajectories))},
    )


def crediting_of(params: JudgingParams) -> Crediting:
    """Raises:
    BadConfiguration: no such advantage, or shaping that there is not.
    """
    estimator(params.advantage)
    return Crediting(
        advantage=params.advantage,
        credit=params.credit,
        gamma=params.gamma,
        shaping=shaping_of(params.shaping),
        drop_truncated=params.drop_truncated,
    )


def metadata_of(params: JudgingParams) -> dict[str, str]:
    """What a batch says of how it was judged."""
    return {"reward": params.reward, "advantage": params.advantage, "credit": params.credit}


STEP = Step(
    name="feedback",
    summary="Judge trajectories and turn them into a batch to train on.",
    params=FeedbackParams,
    inputs=FeedbackInputs,
    outputs=FeedbackOutputs,
    run=run,
)
