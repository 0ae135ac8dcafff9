"""Masks and datum assembly against values written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.components.samples import row
from tuft_components.batches import BatchRow
from tuft_components.rl.datums import assemble
from tuft_components.rl.masks import completion_mask


def turn(
    prompt: list[int],
    completion: list[int],
    logprobs: list[float],
    advantages: list[float],
    mask: list[float],
) -> BatchRow:
    return row(
        prompt_tokens=prompt,
        completion_tokens=completion,
        logprobs=logprobs,
        advantages=advantages,
        mask=mask,
    )


def test_a_transition_becomes_shifted_tensors() -> None:
    arrays = assemble([turn([10, 11, 12], [20, 21], [-0.5, -1.5], [2.0, 2.0], [1.0, 1.0])])
    assert arrays.input_tokens.tolist() == [10, 11, 12, 20]
    assert arrays.target_tokens.tolist() == [11, 12, 20, 21]
    assert arrays.logprobs.tolist() == [0.0, 0.0, -0.5, -1.5]
    assert arrays.advantages.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert arrays.input_tokens.dtype == np.int32
    assert arrays.target_tokens.dtype == np.int64
    assert arrays.logprobs.dtype == arrays.advantages.dtype == np.float32


def test_masked_tokens_have_no_advantage_but_keep_their_logprobs() -> None:
    arrays = assemble([turn([1], [2, 3], [-0.5, -1.5], [2.0, -2.0], [0.0, 1.0])])
    assert arrays.advantages.tolist() == [0.0, -2.0]
    assert arrays.logprobs.tolist() == [-0.5, -1.5]
    assert arrays.input_tokens.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("prompt", "completion", "logprobs"), [([], [1], [0.0]), ([1], [], []), ([1], [1], [])]
)
def test_what_makes_no_datum_is_refused(
    prompt: list[int], completion: list[int], logprobs: list[float]
) -> None:
    with pytest.raises(ValueError, match="token"):
        assemble([turn(prompt, completion, logprobs, logprobs, logprobs)])


def test_truncated_completions_can_be_left_out() -> None:
    assert completion_mask(2, truncated=True, drop_truncated=False).tolist() == [1, 1]
    assert completion_mask(2, truncated=False, drop_truncated=True).tolist() == [1, 1]
    assert completion_mask(2, truncated=True, drop_truncated=True).tolist() == [0, 0]


def test_turns_share_a_datum_and_what_the_environment_said_carries_nothing() -> None:
    first = turn([10, 11], [20], [-0.5], [2.0], [1.0])
    second = turn([10, 11, 20, 12, 13], [21, 22], [-1.5, -2.5], [3.0, 4.0], [1.0, 0.0])
    arrays = assemble([first, second])
    assert arrays.input_tokens.tolist() == [10, 11, 20, 12, 13, 21]
    assert arrays.target_tokens.tolist() == [11, 20, 12, 13, 21, 22]
    assert arrays.logprobs.tolist() == [0, -0.5, 0, 0, -1.5, -2.5]
    assert arrays.advantages.tolist() == [0, 2, 0, 0, 3, 0]
    assert arrays.sampled == [(1, 2), (4, 6)]


def test_a_turn_that_does_not_go_on_is_refused() -> None:
    first = turn([10, 11], [20], [-0.5], [2.0], [1.0])
    other = turn([10, 11, 21, 12], [21], [-1.5], [3.0], [1.0])
    with pytest.raises(ValueError, match="does not begin with"):
        assemble([first, other])


def test_a_prompt_of_one_token_adds_no_target() -> None:
    assert assemble([turn([1], [2], [3.0], [1.0], [1.0])]).logprobs.tolist() == [3.0]
