"""The GRPO pipelines with an LLM as the judge of episodes."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from tuft_components.steps import Contract, JsonObject
from tuft_pipelines import segments, split_steps
from tuft_pipelines.frame import EVALUATION, NewRun
from tuft_pipelines.parameters import gathered

_MINIMAL = ("reward_args",)


class _Judge(Contract):
    reward: str = Field(default="judge", description="Reward: a name, or module:function.")
    reward_args: JsonObject = Field(
        description='JSON object for the judge, such as {"rubric": "Is the answer polite and right?"}; '
        "`model` names one that the service serves. See the step feedback."
    )


class _JudgedSegments(_Judge, segments.SegmentedRun):
    pass


class _JudgedSteps(_Judge, NewRun):
    pass


GRPO_JUDGE = replace(
    segments.GRPO,
    name="grpo_judge",
    summary="Reinforcement learning in segments, rewarded by an LLM that judges the episodes.",
    parameters=gathered(_JudgedSegments, segments.STEPS, EVALUATION),
)
GRPO_JUDGE_MINIMAL = GRPO_JUDGE.minimal(*segments.MINIMAL, *_MINIMAL)
GRPO_SPLIT_JUDGE = replace(
    split_steps.GRPO_SPLIT,
    name="grpo_split_judge",
    summary="Reinforcement learning in split steps, rewarded by an LLM that judges the episodes.",
    parameters=gathered(_JudgedSteps, split_steps.STEPS, EVALUATION),
)
GRPO_SPLIT_JUDGE_MINIMAL = GRPO_SPLIT_JUDGE.minimal(*split_steps.MINIMAL, *_MINIMAL)
