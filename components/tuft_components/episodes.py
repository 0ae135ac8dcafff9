"""Play episodes of an environment with a policy, concurrently."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tuft_components.envs.base import Environment, Episode, Observation
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.trajectories import Transition

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
    """Which episodes to play: `groups` tasks from number `first_index` on, each `group_size` times."""

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


async def play(
    policy: Policy,
    environment: Environment,
    tokenizer: PreTrainedTokenizerBase,
    episodes: EpisodeSet,
) -> list[Transition]:
    """All transitions of all episodes.

    Raises:
        BadData: an environment went on after `max_turns` turns, or gave an empty prompt.
    """
    groups = await asyncio.gather(
        *(
            _Group(policy, environment, tokenizer, episodes, group_id).play()
            for group_id in range(episodes.groups)
        )
    )
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
        try:
            members = [
                self._environment.episode(
                    split=wanted.split,
                    seed=wanted.seed,
                    index=wanted.first_index + self._group_id,
                )
                for _ in range(wanted.group_size)
            ]
        except ValueError as error:
            raise BadConfiguration(str(error)) from error
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
            result = await episode.step(action)
            transitions.append(
                Transition(
                    iteration=self._set.iteration,
                    group_id=self._group_id,
                    sample=number,
                    turn=turn,
                    policy=self._set.policy_name,
                    policy_version=self._policy_version(),
                    prompt_tokens=prompt,
                    completion_tokens=list(sample.tokens),
                    logprobs=list(sample.logprobs),
                    prompt_text=self._decode(prompt),
                    completion_text=action,
                    stop_reason=sample.stop_reason,
                    env_reward=float(result.reward),
                    done=result.done,
                    info=dict(episode.info),
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
            tokens = self._tokenizer.apply_chat_template(
                [dict(message) for message in observation],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        if not tokens:
            raise BadData("an environment gave an empty prompt")
        return list(tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _policy_version(self) -> int:
        version = self._set.policy_version
        return self._set.iteration if version is None else version

    def _sampling_seed(self, *, turn: int, sample: int) -> int:
        """31 bits that differ for every request of every iteration."""
        s = self._set
        text = f"{s.split}/{s.seed}/{s.iteration}/{s.first_index + self._group_id}/{turn}/{sample}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
