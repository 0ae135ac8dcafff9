"""Play episodes of an environment with a policy, concurrently."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

from tuft_components.envs.base import Environment, Episode, Message, Observation, StepResult
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.trajectories import Transition
from tuft_components.user_code import user_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
class EpisodeSet:
    """Which episodes to play: `groups` tasks from number `first_index` on, each `group_size` times.

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
    max_turns: int
    policy_version: int | None = None
    """Updates behind the policy; None: as many as `iteration` says."""
    sample_round: int | None = None
    """The samples' seeds differ from round to round, the tasks do not; None: `iteration`."""
    shard: int = 0
    shards: int = 1
    concurrency: int = 256

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

    def group_ids(self) -> range:
        """Of this shard; the numbers are those of the whole set."""
        return range(self.shard, self.groups, self.shards)


GroupPlayed = Callable[[int, list[Transition]], Awaitable[None]]
"""Gets the number of a group and its transitions as soon as its episodes are done."""


async def play(
    policy: Policy,
    environment: Environment,
    tokenizer: PreTrainedTokenizerBase,
    episodes: EpisodeSet,
    *,
    skip: Container[int] = (),
    on_group: GroupPlayed | None = None,
) -> list[Transition]:
    """All transitions of all episodes, but for the groups to `skip`.

    Raises:
        BadData: the environment raised something, went on after `max_turns` turns, or gave an
            empty prompt. Groups that were done before have gone through `on_group`.
    """
    room = asyncio.Semaphore(max(1, episodes.concurrency // episodes.group_size))

    async def play_one(group_id: int) -> list[Transition]:
        async with room:
            group = _Group(policy, environment, tokenizer, episodes, group_id)
            transitions = await group.play()
            if on_group is not None:
                await on_group(group_id, transitions)
            return transitions

    wanted = [group_id for group_id in episodes.group_ids() if group_id not in skip]
    groups = await asyncio.gather(*map(play_one, wanted))
    return [transition for group in groups for transition in group]


class _Group:
    """Episodes of one task. Their first prompt is the same, and is sampled in one request."""

    def __init__(
        self,
        policy: Policy,
        environment: Environment,
        tokenizer: PreTrainedTokenizerBase,
        episodes: EpisodeSet,
        group_id: int,
    ) -> None:
        self._policy = policy
        self._environment = environment
        self._tokenizer = tokenizer
        self._set = episodes
        self._group_id = group_id

    async def play(self) -> list[Transition]:
        wanted = self._set
        members = [self._episode() for _ in range(wanted.group_size)]
        with self._user_code("initial_observation"):
            firsts = [await member.initial_observation() for member in members]
        prompts = [self._encode(first, []) for first in firsts]
        if any(prompt != prompts[0] for prompt in prompts):
            raise BadData(
                f"the episodes of group {self._group_id} begin differently: an environment must "
                "give the same task for the same (split, seed, index)"
            )
        samples = await self._policy.sample(
            prompts[0],
            wanted.group_size,
            seed=self._sampling_seed(turn=0, sample=0),
            stop=self._environment.stop,
        )
        played = await asyncio.gather(
            *(
                self._play_one(number, member, prompts[0], sample)
                for number, (member, sample) in enumerate(zip(members, samples, strict=True))
            )
        )
        return [transition for episode in played for transition in episode]

    def _episode(self) -> Episode:
        wanted = self._set
        with self._user_code("episode"):
            try:
                return self._environment.episode(
                    split=wanted.split,
                    seed=wanted.seed,
                    index=wanted.first_index + self._group_id,
                )
            except ValueError as error:
                raise BadConfiguration(str(error)) from error

    async def _step(self, episode: Episode, action: str) -> tuple[StepResult, float, Any]:
        """What the environment says, its reward as a number, and its info as JSON values."""
        with self._user_code("step"):
            result = await episode.step(action)
            reward = float(result.reward)
            # As a reader of the file will see it: tuples are lists there.
            info = json.loads(json.dumps(dict(episode.info)))
        if not isfinite(reward):
            raise BadData(f"environment {self._set.env} gave the reward {reward}: not finite")
        return result, reward, info

    def _user_code(self, method: str) -> AbstractContextManager[None]:
        return user_code(f"environment {self._set.env}, in {method} of group {self._group_id},")

    async def _play_one(
        self, number: int, episode: Episode, prompt: list[int], sample: Sample
    ) -> list[Transition]:
        transitions: list[Transition] = []
        for turn in range(self._set.max_turns):
            if turn > 0:
                (sample,) = await self._policy.sample(
                    prompt,
                    1,
                    seed=self._sampling_seed(turn=turn, sample=number),
                    stop=self._environment.stop,
                )
            action = self._decode(sample.tokens)
            result, reward, info = await self._step(episode, action)
            transitions.append(
                Transition(
                    iteration=self._set.iteration,
                    group_id=self._group_id,
                    sample=number,
                    turn=turn,
                    env=self._set.env,
                    policy=self._set.policy_name,
                    policy_version=self._set.version(),
                    prompt_tokens=prompt,
                    completion_tokens=list(sample.tokens),
                    logprobs=list(sample.logprobs),
                    prompt_text=self._decode(prompt),
                    completion_text=action,
                    stop_reason=sample.stop_reason,
                    env_reward=reward,
                    done=result.done,
                    info=info,
                )
            )
            if result.done:
                return transitions
            if result.observation is None:
                raise BadData("an environment gave no observation though it was not done")
            prompt = self._encode(result.observation, [*prompt, *sample.tokens])
        raise BadData(
            f"an episode of group {self._group_id} was not done after {self._set.max_turns} turns"
        )

    def _encode(self, observation: Observation, so_far: list[int]) -> list[int]:
        """Text goes behind what was seen and said so far; messages are the whole conversation."""
        if isinstance(observation, str):
            tokens = [*so_far, *self._tokenizer.encode(observation, add_special_tokens=not so_far)]
        else:
            tokens = self._chat_tokens(observation)
        if not tokens:
            raise BadData("an environment gave an empty prompt")
        return list(tokens)

    def _chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        conversation = [dict(message) for message in messages]
        try:
            tokens: list[int] = self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # what a template refuses is up to the model; or there is none
            raise BadData(
                f"the tokenizer can't format the messages of environment {self._set.env}: {error}"
            ) from error
        return tokens

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _sampling_seed(self, *, turn: int, sample: int) -> int:
        """31 bits that differ for every request of every round."""
        s = self._set
        sample_round = s.iteration if s.sample_round is None else s.sample_round
        text = f"{s.split}/{s.seed}/{sample_round}/{s.first_index + self._group_id}/{turn}/{sample}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
