"""What an environment is: text in, text out.

    class Mine:
        async def reset(self, task: Task) -> Turn: ...
        async def step(self, action: str) -> Turn: ...
        async def close(self) -> None: ...

Close to Gymnasium, and a small superset of tinker-cookbook's `MessageEnv`. What plays the episodes
keeps time and counts turns: an environment need not. Its methods may also be plain functions:
those of one instance then run in a thread of its own (`tuft_components.envs.families`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = Mapping[str, str]
"""A chat message: {"role": …, "content": …}; the role is system, user or tool."""

Observation = str | Sequence[Message]
"""What is new since the last action: plain text, or messages for the model's chat template.

An episode keeps to one of the two. Text is appended to what the policy saw and said so far;
messages follow the action, which is the assistant's message between them.
"""

SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Task:
    """Which task of an environment. The same three give the same task in every process: episodes
    of one group, and a rollout that is executed again, must see the same. Splits share no task."""

    split: str
    seed: int
    index: int

    def random(self) -> random.Random:
        """A generator that follows from the task alone."""
        return random.Random(f"{self.split}/{self.seed}/{self.index}")

    def number(self) -> int:
        """31 bits for environments whose tasks are numbered: odd for `eval`, even for `train`.

        Raises:
            ValueError: the split is another.
        """
        if self.split not in SPLITS:
            raise ValueError(f"no split {self.split!r}; there are: {', '.join(SPLITS)}")
        text = f"{self.seed}/{self.index}".encode()
        bits = int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 2
        return 2 * bits + SPLITS.index(self.split)


@dataclass(frozen=True)
class Turn:
    """What the environment says: first, and to each action.

    Args:
        observation: what is new; may be empty where `done`.
        reward: of the action; the episode's is their sum.
        done: the episode is over.
        actions: what may be done next, where that is a list; empty: any text.
        error: what was wrong with the action, in words: it did not parse, or raised.
        info: JSON values about the task that reward functions may need: a reference answer, say.
    """

    observation: Observation = ""
    reward: float = 0.0
    done: bool = False
    actions: Sequence[str] = ()
    error: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """Plays one episode at a time, and any number of them one after another.

    A `ValueError` from `reset` says that the task or the arguments are wrong. Whatever else is
    raised ends the episode; then the instance is closed, and not used again.
    """

    async def reset(self, task: Task) -> Turn:
        """Begin the task; what the policy sees first is equal for all episodes of one task."""
        ...

    async def step(self, action: str) -> Turn:
        """Take the policy's text, without special tokens."""
        ...

    async def close(self) -> None:
        """Let go of what it holds; also in the middle of an episode."""
        ...


class EnvironmentFamily(Protocol):
    """Makes the instances that episodes are played in at the same time.

    `make_environment` makes one of a plain class. Where instances share something (a browser, a
    game server), what `env` names returns a family itself: something with `open`.
    """

    @property
    def stop(self) -> Sequence[str]:
        """Strings that end an action; empty where only the model's end-of-text token does."""
        ...

    @property
    def at_once(self) -> int | None:
        """Instances that may be open at the same time; None: any number."""
        ...

    @property
    def tools(self) -> Sequence[Mapping[str, Any]]:
        """JSON schemas of functions, for the chat template; actions then hold tool calls."""
        ...

    async def open(self) -> Environment:
        """A new instance."""
        ...

    async def close(self) -> None:
        """Let go of what the instances shared; all of them are closed by then."""
        ...
