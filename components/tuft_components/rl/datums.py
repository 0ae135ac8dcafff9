"""From the turns of an episode to the tensors of one Tinker datum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


class SampledTurn(Protocol):
    """What was seen before an action, and the action: all but the prompt of length T."""

    @property
    def prompt_tokens(self) -> Sequence[int]: ...
    @property
    def completion_tokens(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...
    @property
    def advantages(self) -> Sequence[float]: ...
    @property
    def mask(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class DatumArrays:
    """All of length N = all tokens - 1; input position i predicts target i.

    `sampled` are the ranges [begin, end) of targets that the policy sampled, one a turn.
    """

    input_tokens: npt.NDArray[np.int32]
    target_tokens: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    advantages: npt.NDArray[np.float32]
    sampled: Sequence[tuple[int, int]]


def goes_on(before: SampledTurn, turn: SampledTurn) -> bool:
    """Whether the turn's prompt begins with all the tokens of the turn before."""
    said = [*before.prompt_tokens, *before.completion_tokens]
    return list(turn.prompt_tokens[: len(said)]) == said


def assemble(turns: Sequence[SampledTurn]) -> DatumArrays:
    """Shift by one; log-probabilities and advantages are 0 where the policy did not speak.

    An advantage counts where its mask is not 0. Turns of one episode share a datum: what each of
    them saw is the beginning of what the last one saw, and causal attention computes for it what it
    would compute alone.

    Args:
        turns: each goes on from the one before it.

    Raises:
        ValueError: a list is empty or has another length, or a turn does not go on.
    """
    for before, turn in zip([None, *turns], turns, strict=False):
        _check(turn)
        if before is not None and not goes_on(before, turn):
            raise ValueError("a turn does not begin with the tokens of the turn before")
    last = turns[-1]
    tokens = np.asarray([*last.prompt_tokens, *last.completion_tokens], dtype=np.int64)
    logprobs, advantages = np.zeros((2, len(tokens) - 1), dtype=np.float32)
    sampled = []
    for turn in turns:
        # Input position i predicts token i + 1.
        begin = len(turn.prompt_tokens) - 1
        end = begin + len(turn.completion_tokens)
        logprobs[begin:end] = turn.logprobs
        advantages[begin:end] = np.asarray(turn.advantages, np.float32) * np.asarray(turn.mask)
        sampled.append((begin, end))
    return DatumArrays(
        input_tokens=tokens[:-1].astype(np.int32),
        target_tokens=tokens[1:],
        logprobs=logprobs,
        advantages=advantages,
        sampled=sampled,
    )


def _check(turn: SampledTurn) -> None:
    length = len(turn.completion_tokens)
    if not turn.prompt_tokens or not length:
        raise ValueError("prompt and completion have at least one token each")
    if not length == len(turn.logprobs) == len(turn.advantages) == len(turn.mask):
        raise ValueError("completion tokens, logprobs, advantages and mask have equal lengths")
