"""Which episodes are played, within which limits, and what playing them needs of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tuft_components.envs.base import Observation, Task
from tuft_components.errors import BadConfiguration


@dataclass(frozen=True)
class Sample:
    """`tokens` and `logprobs` have equal lengths; `stop_reason` is stop or length."""

    tokens: Sequence[int]
    logprobs: Sequence[float]
    stop_reason: str


class Policy(Protocol):
    """What episodes need of a sampling client."""

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        """`count` independent completions of the prompt."""
        ...


@dataclass(frozen=True)
class Limits:
    """What bounds an episode, and a whole rollout. An environment need not bound itself.

    Args:
        max_turns: of an episode; it ends there, with the rewards that it has.
        call_timeout_s: for each call of an environment; one that takes longer has failed.
        longest_prompt: tokens; an episode that needs more ends there. None: any number.
        token_budget: new tokens of all episodes together; 0: any number.
        time_budget_s: for all episodes together; 0: any time. Where a budget is used up, episodes
            end with the rewards that they have, and groups not yet begun are left out.
        max_failed: the share of episodes that may fail before the whole is a failure.
    """

    max_turns: int = 32
    call_timeout_s: float = 120.0
    longest_prompt: int | None = None
    token_budget: int = 0
    time_budget_s: float = 0.0
    max_failed: float = 0.5


@dataclass(frozen=True)
class Again:
    """A task that was played before, by the form of replay (see `tuft_components.replay`).

    `hint` goes in front of what the policy sees first; it may be empty.
    """

    task: Task
    form: str
    hint: str = ""

    def shown(self, observation: Observation) -> Observation:
        """The observation behind the hint; among messages it is in the first one of the user's."""
        if isinstance(observation, str):
            return self.hint + observation
        messages = [dict(message) for message in observation]
        for message in messages:
            if message.get("role") == "user":
                message["content"] = self.hint + message["content"]
                break
        return messages


@dataclass(frozen=True)
class EpisodeSet:
    """Which episodes to play: `groups` tasks from number `first_index` on, each `group_size` times.

    A group that `again` has plays the task there instead of the one with its number.

    Of these, a shard plays the groups g with g % shards == shard. `concurrency` is how many
    episodes are played at once, at most; a group is always played whole.
    """

    env: str
    split: str
    seed: int
    first_index: int
    groups: int
    group_size: int
    iteration: int
    policy_name: str
    limits: Limits
    policy_version: int | None = None
    """Updates behind the policy; None: as many as `iteration` says."""
    sample_round: int | None = None
    """The samples' seeds differ from round to round, the tasks do not; None: `iteration`."""
    shard: int = 0
    shards: int = 1
    concurrency: int = 256
    env_args: Mapping[str, Any] = field(default_factory=dict)
    again: Mapping[int, Again] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shards > self.groups:
            raise BadConfiguration(
                f"{self.shards} shards of {self.groups} groups: some would have nothing to play; "
                f"give shards of {self.groups} or less"
            )
        if self.shard >= self.shards:
            raise BadConfiguration(
                f"shard {self.shard} of {self.shards}: shards are numbered from 0 on"
            )

    def version(self) -> int:
        """Updates behind the policy."""
        return self.iteration if self.policy_version is None else self.policy_version

    def task_of(self, group_id: int) -> Task:
        again = self.again.get(group_id)
        return again.task if again else Task(self.split, self.seed, self.first_index + group_id)

    def described(self, group_id: int) -> dict[str, Any]:
        """All that says which task it is, and how it came to be played, as JSON values."""
        again = self.again.get(group_id)
        described = {**asdict(self.task_of(group_id)), "env_args": dict(self.env_args)}
        return {**described, "replay": again.form} if again else described

    def group_ids(self) -> range:
        """Of this shard; the numbers are those of the whole set."""
        return range(self.shard, self.groups, self.shards)
