"""Playing episodes, with a policy that is a plain function and a real tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from tests.helpers.tiny_model import build_tokenizer
from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, Observation, StepResult
from tuft_components.episodes import EpisodeSet, Sample, play
from tuft_components.errors import BadConfiguration, BadData, TransientFailure

TOKENIZER = build_tokenizer()


@dataclass
class Says:
    """A policy that says these texts, one after the other in each request; `asked` is a log."""

    texts: Sequence[str]
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        self.asked.append((TOKENIZER.decode(list(prompt)), count, seed))
        samples = []
        for number in range(count):
            tokens = TOKENIZER.encode(self.texts[number % len(self.texts)])
            samples.append(Sample(tokens, [-0.5] * len(tokens), "stop"))
        return samples


class Counting:
    """Counts `turns` actions; observations are text, or messages where `chat`."""

    stop: Sequence[str] = ()

    def __init__(self, turns: int = 3, chat: bool = False, drift: bool = False) -> None:
        self.turns, self.chat, self.drift, self.made = turns, chat, drift, 0

    def episode(self, *, split: str, seed: int, index: int) -> Counting.Episode:
        self.made += 1
        return Counting.Episode(self, index + (self.made if self.drift else 0))

    class Episode:
        def __init__(self, family: Counting, index: int) -> None:
            self.family, self.index, self.turn = family, index, 0
            self.messages: list[Mapping[str, str]] = []

        @property
        def info(self) -> Mapping[str, Any]:
            return {"index": self.index}

        async def initial_observation(self) -> Observation:
            return self._observation(f"task {self.index}:")

        async def step(self, action: str) -> StepResult:
            self.turn += 1
            self.messages.append({"role": "assistant", "content": action})
            if self.turn == self.family.turns:
                return StepResult(reward=2.0, done=True)
            return StepResult(0.5, False, self._observation(" next:"))

        def _observation(self, text: str) -> Observation:
            if not self.family.chat:
                return text
            self.messages.append({"role": "user", "content": text})
            return list(self.messages)


def episode_set(**changes: Any) -> EpisodeSet:
    values: dict[str, Any] = {
        "env": "counting",
        "split": "train",
        "seed": 0,
        "first_index": 10,
        "groups": 2,
        "group_size": 2,
        "iteration": 3,
        "policy_name": "p",
        "max_turns": 5,
    }
    return EpisodeSet(**{**values, **changes})


async def test_one_request_for_a_group_of_one_turn() -> None:
    policy = Says([" a", " b"])
    transitions = await play(policy, Counting(turns=1), TOKENIZER, episode_set())
    assert [(t.group_id, t.sample, t.turn) for t in transitions] == [
        (0, 0, 0),
        (0, 1, 0),
        (1, 0, 0),
        (1, 1, 0),
    ]
    assert sorted(asked[:2] for asked in policy.asked) == [("task 10:", 2), ("task 11:", 2)]
    assert [t.completion_text for t in transitions] == [" a", " b", " a", " b"]
    first = transitions[0]
    assert (first.iteration, first.policy_version, first.policy) == (3, 3, "p")
    assert first.prompt_text == "task 10:"
    assert TOKENIZER.decode(first.prompt_tokens) == "task 10:"
    assert len(first.logprobs) == len(first.completion_tokens)
    assert first.info == {"index": 10}
    assert first.done


async def test_text_goes_behind_what_was_seen_and_said() -> None:
    transitions = await play(Says([" x"]), Counting(), TOKENIZER, episode_set(groups=1))
    episode = [t for t in transitions if t.sample == 1]
    assert [t.prompt_text for t in episode] == [
        "task 10:",
        "task 10: x next:",
        "task 10: x next: x next:",
    ]
    for before, after in pairwise(episode):
        said = [*before.prompt_tokens, *before.completion_tokens]
        assert list(after.prompt_tokens[: len(said)]) == said
    assert [t.env_reward for t in episode] == [0.5, 0.5, 2.0]
    assert [t.done for t in episode] == [False, False, True]


async def test_messages_go_through_the_chat_template() -> None:
    policy = Says([" x"])
    await play(policy, Counting(turns=2, chat=True), TOKENIZER, episode_set(groups=1))
    assert policy.asked[0][0] == "<|start|>user\ntask 10:<|end|>\n<|start|>assistant\n"
    assert policy.asked[1][0] == (
        "<|start|>user\ntask 10:<|end|>\n<|start|>assistant\n x<|end|>\n"
        "<|start|>user\n next:<|end|>\n<|start|>assistant\n"
    )


async def test_every_request_has_its_own_seed() -> None:
    policy = Says([" x"])
    for iteration in (0, 1):
        await play(policy, Counting(), TOKENIZER, episode_set(iteration=iteration))
    seeds = [seed for _, _, seed in policy.asked]
    assert len(set(seeds)) == len(seeds) == 2 * (2 + 2 * 2 * 2)
    assert all(0 <= seed < 2**31 for seed in seeds)
    again = Says([" x"])
    await play(again, Counting(), TOKENIZER, episode_set(iteration=0))
    assert sorted(seed for _, _, seed in again.asked) == sorted(seeds[:10])


async def test_an_endless_episode_is_bad_data() -> None:
    with pytest.raises(BadData, match="not done after 5 turns"):
        await play(Says([" x"]), Counting(turns=9), TOKENIZER, episode_set())


async def test_a_group_that_begins_differently_is_bad_data() -> None:
    with pytest.raises(BadData, match="begin differently"):
        await play(Says([" x"]), Counting(drift=True), TOKENIZER, episode_set())


async def test_an_unknown_split_is_bad_configuration() -> None:
    environment: Environment = make_environment("second_word", {})
    with pytest.raises(BadConfiguration, match="no split 'x'"):
        await play(Says([" x"]), environment, TOKENIZER, episode_set(split="x"))


async def test_an_older_policy_is_told() -> None:
    """Where rollouts overlap updates, the policy has fewer updates than its iteration has."""
    policy = Says([" a"])
    for version in (None, 1):
        played = await play(
            policy, Counting(turns=1), TOKENIZER, episode_set(policy_version=version)
        )
        assert {t.policy_version for t in played} == {3 if version is None else version}
        assert {t.iteration for t in played} == {3}
    assert policy.asked[:2] == policy.asked[2:]  # the same tasks and seeds


async def test_a_shard_plays_its_groups_with_the_numbers_of_the_whole() -> None:
    whole = await play(Says([" a"]), Counting(turns=2), TOKENIZER, episode_set(groups=5))
    shards = [
        await play(
            Says([" a"]), Counting(turns=2), TOKENIZER, episode_set(groups=5, shard=n, shards=2)
        )
        for n in range(2)
    ]
    assert {t.group_id for t in shards[1]} == {1, 3}
    parts = sorted([*shards[0], *shards[1]], key=lambda t: (t.group_id, t.sample, t.turn))
    assert parts == sorted(whole, key=lambda t: (t.group_id, t.sample, t.turn))


class _Watched(Says):
    """Notes how many groups are sampled for at once."""

    now = most = 0

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await super().sample(prompt, count, seed=seed, stop=stop)


@pytest.mark.parametrize(("concurrency", "groups"), [(1, 1), (2, 1), (5, 2), (100, 6)])
async def test_groups_that_are_played_at_once(concurrency: int, groups: int) -> None:
    policy = _Watched([" a"])
    episodes = episode_set(groups=6, concurrency=concurrency)
    await play(policy, Counting(turns=1), TOKENIZER, episodes)
    assert policy.most == groups


async def test_an_evaluations_seeds_are_the_same_in_all_iterations() -> None:
    policy = Says([" x"])
    for iteration in (0, 7):
        await play(policy, Counting(), TOKENIZER, episode_set(iteration=iteration, sample_round=0))
    assert sorted(policy.asked[:10]) == sorted(policy.asked[10:])


class _Broken(Counting):
    """Raises `error` in one of the three methods."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(turns=1)
        self.where, self.error = where, error

    def episode(self, *, split: str, seed: int, index: int) -> Counting.Episode:
        episode = super().episode(split=split, seed=seed, index=index)

        def broken(*_: object) -> None:
            raise self.error

        if self.where == "episode":
            broken()
        setattr(episode, self.where, broken)
        return episode


@pytest.mark.parametrize(
    ("where", "error", "means", "says"),
    [
        ("episode", KeyError("x"), BadData, "in episode of group 0, raised KeyError: 'x'"),
        ("episode", ValueError("bad split"), BadConfiguration, "^bad split$"),
        ("initial_observation", OSError("gone"), BadData, "in initial_observation of .* gone"),
        ("step", ZeroDivisionError("a/0"), BadData, r"environment counting, in step .* a/0 \(.*py"),
        ("step", ConnectionResetError("reset"), TransientFailure, "raised ConnectionResetError"),
        ("step", TransientFailure("the judge is away"), TransientFailure, "^the judge is away$"),
    ],
)  # fmt: skip
async def test_what_an_environment_raises_is_told(
    where: str, error: Exception, means: type[Exception], says: str
) -> None:
    with pytest.raises(means, match=says):
        await play(Says([" x"]), _Broken(where, error), TOKENIZER, episode_set(groups=1))


@dataclass
class _Gives(Counting):
    """An environment of one turn that gives `reward` and `info`."""

    reward: Any = 1.0
    info: Any = None

    def __post_init__(self) -> None:
        super().__init__(turns=1, chat=True)

    def episode(self, *, split: str, seed: int, index: int) -> Counting.Episode:
        family = self

        class Episode(Counting.Episode):
            @property
            def info(self) -> Mapping[str, Any]:
                return dict(family.info or {})

            async def step(self, action: str) -> StepResult:
                return StepResult(family.reward, done=True)

        return Episode(self, index)


async def test_info_is_as_readers_of_the_file_see_it() -> None:
    environment = _Gives(info={"a": (1, 2), 3: None})
    played = await play(Says([" x"]), environment, TOKENIZER, episode_set(groups=1))
    assert played[0].info == {"a": [1, 2], "3": None}


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (_Gives(info={"a": {1}}), "in step of group 0, raised TypeError: .*set is not JSON"),
        (_Gives(reward=float("nan")), "environment counting gave the reward nan: not finite"),
        (_Gives(reward="much"), "in step of group 0, raised ValueError: .*'much'"),
    ],
)
async def test_what_an_environment_gives_is_checked(environment: _Gives, says: str) -> None:
    with pytest.raises(BadData, match=says):
        await play(Says([" x"]), environment, TOKENIZER, episode_set(groups=1))


async def test_a_tokenizer_without_a_chat_template_takes_text_only() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    assert await play(Says([" x"]), Counting(turns=1), tokenizer, episode_set())
    with pytest.raises(BadData, match="messages of environment counting: Cannot use chat"):
        await play(Says([" x"]), Counting(turns=1, chat=True), tokenizer, episode_set())
