"""Transitions and rows that tests start from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tuft_components.batches import BatchRow
from tuft_components.trajectories import Transition

TRANSITION = Transition(
    iteration=0,
    group_id=0,
    sample=0,
    turn=0,
    env="second_word",
    policy="tinker://s:train:0/sampler_weights/policy-000000",
    policy_version=0,
    prompt_tokens=[5, 6, 7],
    completion_tokens=[8, 9],
    logprobs=[-0.25, -1.5],
    prompt_text="a b ->",
    completion_text=" b\n",
    stop_reason="length",
    env_reward=1.0,
    done=True,
    observation_tokens=3,
    end="done",
    info={"reference": "b"},
)

ROW = BatchRow(
    iteration=0,
    group_id=0,
    sample=0,
    turn=0,
    policy=TRANSITION.policy,
    policy_version=0,
    prompt_tokens=[5, 6, 7],
    completion_tokens=[8, 9],
    logprobs=[-0.25, -1.5],
    reward=1.0,
    advantages=[0.5, 0.5],
    mask=[1.0, 1.0],
)


def transition(**changes: Any) -> Transition:
    return replace(TRANSITION, **changes)


def row(**changes: Any) -> BatchRow:
    return replace(ROW, **changes)
