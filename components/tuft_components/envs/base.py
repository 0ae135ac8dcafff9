"""What an environment is: text in, text out, asynchronous.

Close to tinker-cookbook's `MessageEnv`: an episode gives an initial observation and answers
each action with a step result. An observation may be plain text (for base models and small
tasks) or chat messages, which the tokenizer's own chat template formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = Mapping[str, str]
"""A chat message: {"role": …, "content": …}."""

Observation = str | Sequence[Message]
"""Plain text, or the conversation so far."""


@dataclass(frozen=True)
class StepResult:
    """What the environment says to an action.

    `observation` is None where `done`. Text is appended to what the policy saw and said so far;
    messages are the whole conversation, the action included.
    """

    reward: float
    done: bool
    observation: Observation | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Episode(Protocol):
    """One episode; used once. Calls are never concurrent within an episode."""

    @property
    def info(self) -> Mapping[str, Any]:
        """JSON values about the task that reward functions may need: a reference answer, say."""
        ...

    async def initial_observation(self) -> Observation:
        """What the policy sees first; equal for all episodes of one task."""
        ...

    async def step(self, action: str) -> StepResult:
        """Take the policy's text, without special tokens."""
        ...


class Environment(Protocol):
    """A family of tasks."""

    @property
    def stop(self) -> Sequence[str]:
        """Strings that end an action; empty where only the model's end-of-text token does."""
        ...

    def episode(self, *, split: str, seed: int, index: int) -> Episode:
        """A new episode of the task that (split, seed, index) name.

        The same arguments give the same task in every process: episodes of one group, and a
        rollout that is executed again, must see the same. Splits share no task.

        Raises:
            ValueError: no such split.
        """
        ...
