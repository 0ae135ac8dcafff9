"""From a batch to what is submitted to the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from tuft_components.batches import BatchRow
from tuft_components.rl.datums import DatumArrays, goes_on

if TYPE_CHECKING:
    from tinker import types


def rows_with_signal(rows: Sequence[BatchRow]) -> tuple[list[BatchRow], int]:
    """Rows of the groups that can change the policy, and how many groups were dropped.

    A group whose advantages are all zero (all its episodes were equally good) would cost a
    forward and backward pass and add nothing. A completion without tokens adds nothing either.
    """
    kept: list[BatchRow] = []
    dropped = 0
    for _, members in groupby(rows, key=lambda row: (row.iteration, row.group_id)):
        group = [row for row in members if len(row.completion_tokens) > 0]
        if any(a * m for row in group for a, m in zip(row.advantages, row.mask, strict=True)):
            kept += group
        else:
            dropped += 1
    return kept, dropped


def episode_rewards(rows: Sequence[BatchRow]) -> list[float]:
    """The reward of each episode; every row of an episode carries it."""
    return list({(row.iteration, row.group_id, row.sample): row.reward for row in rows}.values())


def mean_reward(rows: Sequence[BatchRow]) -> float:
    """Of the episodes. All that decide by it take it from the batch, which holds float32."""
    rewards = episode_rewards(rows)
    return sum(rewards) / len(rewards)


def episodes_of(rows: Sequence[BatchRow]) -> list[list[BatchRow]]:
    """Rows that share a datum: turns of one episode, each of which goes on from the one before.

    `rows` are in canonical order. An episode whose prompts do not go on (its template rewrites
    what was said before, say) makes several.
    """
    found: list[list[BatchRow]] = []
    for row in rows:
        if found and found[-1][-1].key[:3] == row.key[:3] and goes_on(found[-1][-1], row):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def datum_of(arrays: DatumArrays) -> types.Datum:
    from tinker import types

    return types.Datum(
        model_input=types.ModelInput.from_ints(arrays.input_tokens.tolist()),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_numpy(arrays.target_tokens),
            "logprobs": types.TensorData.from_numpy(arrays.logprobs),
            "advantages": types.TensorData.from_numpy(arrays.advantages),
        },
    )
