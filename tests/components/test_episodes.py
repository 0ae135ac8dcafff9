"""Playing episodes, with a policy that is a plain function and a real tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from tests.helpers.tiny_model import build_tokenizer
from tuft_components.envs import make_environment
from tuft_components.envs.base import EnvironmentFamily, Task, Turn
from tuft_components.episodes import EpisodeSet, Limits, Policy, Sample
from tuft_components.errors import BadConfiguration, BadData, StepError, TransientFailure
from tuft_components.playing import play
from tuft_components.trajectories import Transition

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
    """A family whose tasks take `turns` actions; observations are text, or messages if `chat`."""

    stop: Sequence[str] = ()
    tools: Sequence[Mapping[str, Any]] = ()

    def __init__(self, turns: int = 3, chat: bool = False, at_once: int | None = None) -> None:
        self.turns, self.chat, self.at_once = turns, chat, at_once
        self.instances: list[Counter] = []

    async def open(self) -> Counter:
        self.instances.append(Counter(self))
        return self.instances[-1]

    async def close(self) -> None:
        assert all(instance.closed for instance in self.instances)


class Counter:
    """An instance; `episodes` counts those that it began."""

    def __init__(self, family: Counting) -> None:
        self.family, self.turn, self.episodes, self.closed = family, 0, 0, False

    async def reset(self, task: Task) -> Turn:
        assert not self.closed
        self.task, self.turn = task, 0
        self.episodes += 1
        return self.says(f"task {task.index}:")

    async def step(self, action: str) -> Turn:
        self.turn += 1
        if self.turn == self.family.turns:
            return Turn(reward=2.0, done=True, info={"index": self.task.index})
        return replace(self.says(" next:"), reward=0.5)

    async def close(self) -> None:
        assert not self.closed
        self.closed = True

    def says(self, text: str) -> Turn:
        observation = [{"role": "user", "content": text}] if self.family.chat else text
        return Turn(observation, info={"index": self.task.index}, actions=("x", "y"))


def episode_set(limits: Limits | None = None, **changes: Any) -> EpisodeSet:
    values: dict[str, Any] = {
        "env": "counting",
        "split": "train",
        "seed": 0,
        "first_index": 10,
        "groups": 2,
        "group_size": 2,
        "iteration": 3,
        "policy_name": "p",
        "limits": limits or Limits(max_turns=5),
    }
    return EpisodeSet(**{**values, **changes})


async def played(
    policy: Policy, environment: EnvironmentFamily, **changes: Any
) -> list[Transition]:
    """In canonical order."""
    outcome = await play(policy, environment, TOKENIZER, episode_set(**changes))
    return sorted(outcome.transitions, key=lambda t: (t.group_id, t.sample, t.turn))


async def test_one_request_for_a_group_of_one_turn() -> None:
    policy = Says([" a", " b"])
    transitions = await played(policy, Counting(turns=1))
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
    assert first.observation_tokens == len(first.prompt_tokens)
    assert first.done


async def test_text_goes_behind_what_was_seen_and_said() -> None:
    transitions = await played(Says([" x"]), Counting(), groups=1)
    episode = [t for t in transitions if t.sample == 1]
    assert [t.prompt_text for t in episode] == [
        "task 10:",
        "task 10: x next:",
        "task 10: x next: x next:",
    ]
    for before, after in pairwise(episode):
        said = [*before.prompt_tokens, *before.completion_tokens]
        assert list(after.prompt_tokens[: len(said)]) == said
        assert after.observation_tokens == len(after.prompt_tokens) - len(said)
    assert [t.env_reward for t in episode] == [0.5, 0.5, 2.0]
    assert [t.done for t in episode] == [False, False, True]


async def test_messages_go_through_the_chat_template() -> None:
    policy = Says([" x"])
    await played(policy, Counting(turns=2, chat=True), groups=1)
    assert policy.asked[0][0] == "<|start|>user\ntask 10:<|end|>\n<|start|>assistant\n"
    assert policy.asked[1][0] == (
        "<|start|>user\ntask 10:<|end|>\n<|start|>assistant\n x<|end|>\n"
        "<|start|>user\n next:<|end|>\n<|start|>assistant\n"
    )


async def test_every_request_has_its_own_seed() -> None:
    policy = Says([" x"])
    for iteration in (0, 1):
        await played(policy, Counting(), iteration=iteration)
    seeds = [seed for _, _, seed in policy.asked]
    assert len(set(seeds)) == len(seeds) == 2 * (2 + 2 * 2 * 2)
    assert all(0 <= seed < 2**31 for seed in seeds)
    again = Says([" x"])
    await played(again, Counting(), iteration=0)
    assert sorted(seed for _, _, seed in again.asked) == sorted(seeds[:10])


async def test_an_endless_episode_ends_with_what_it_has() -> None:
    transitions = await played(Says([" x"]), Counting(turns=9))
    episode = [t for t in transitions if (t.group_id, t.sample) == (0, 1)]
    assert [t.end for t in episode] == ["", "", "", "", "turns"]
    assert [t.env_reward for t in episode] == [0.5] * 5
    assert not any(t.done for t in episode)


class Drifting(Counter):
    """No two episodes of it begin alike."""

    async def reset(self, task: Task) -> Turn:
        instances = self.family.instances
        return await super().reset(replace(task, index=sum(each.episodes for each in instances)))


class Family(Counting):
    """Of instances that `make` makes."""

    def __init__(self, make: Callable[[Counting], Counter], **given: Any) -> None:
        super().__init__(**given)
        self.make = make

    async def open(self) -> Counter:
        self.instances.append(self.make(self))
        return self.instances[-1]


async def test_a_group_that_begins_differently_is_bad_data() -> None:
    with pytest.raises(BadData, match="begin differently"):
        await played(Says([" x"]), Family(Drifting))


async def test_an_unknown_split_is_bad_configuration() -> None:
    environment = make_environment("second_word", {})
    with pytest.raises(BadConfiguration, match="no split 'x'"):
        await played(Says([" x"]), environment, split="x")


async def test_an_older_policy_is_told() -> None:
    """Where rollouts overlap updates, the policy has fewer updates than its iteration has."""
    policy = Says([" a"])
    for version in (None, 1):
        transitions = await played(policy, Counting(turns=1), policy_version=version)
        assert {t.policy_version for t in transitions} == {3 if version is None else version}
        assert {t.iteration for t in transitions} == {3}
    assert policy.asked[:2] == policy.asked[2:]  # the same tasks and seeds


async def test_a_shard_plays_its_groups_with_the_numbers_of_the_whole() -> None:
    whole = await played(Says([" a"]), Counting(turns=2), groups=5)
    shards = [
        await played(Says([" a"]), Counting(turns=2), groups=5, shard=n, shards=2) for n in range(2)
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
        await played(policy, Counting(), iteration=iteration, sample_round=0)
    assert sorted(policy.asked[:10]) == sorted(policy.asked[10:])


class Broken(Counter):
    """Raises `error` in the method `where`, in the episodes of these samples, by their order."""

    where, error = "step", Exception()
    broken: Container[int] = range(99)

    async def _break(self, where: str) -> None:
        if where == self.where and self.number in self.broken:
            raise self.error

    async def reset(self, task: Task) -> Turn:
        first = await super().reset(task)
        self.number = sum(each.episodes for each in self.family.instances)
        await self._break("reset")
        return first

    async def step(self, action: str) -> Turn:
        await self._break("step")
        return await super().step(action)


def broken(where: str, error: Exception, episodes: Container[int] = range(99)) -> Family:
    names = {"where": where, "error": error, "broken": episodes}
    return Family(type("Broken", (Broken,), names), turns=1)


@pytest.mark.parametrize(
    ("where", "error", "means", "says"),
    [
        ("reset", KeyError("x"), BadData, "in reset of group 0, raised KeyError: 'x'"),
        ("reset", ValueError("bad split"), BadConfiguration, "environment counting: bad split$"),
        ("step", ZeroDivisionError("a/0"), BadData, r"environment counting, in step .* a/0 \(.*py"),
        ("step", ConnectionResetError("reset"), TransientFailure, "raised ConnectionResetError"),
        ("step", TransientFailure("the judge is away"), TransientFailure, "^the judge is away$"),
    ],
)  # fmt: skip
async def test_an_environment_that_always_fails_is_told(
    where: str, error: Exception, means: type[StepError], says: str
) -> None:
    environment = broken(where, error)
    with pytest.raises(means, match=says):
        await played(Says([" x"]), environment, groups=1)
    assert all(instance.closed for instance in environment.instances)


async def test_a_failure_costs_one_episode() -> None:
    environment = broken("step", OSError("the page is gone"), episodes=[2])
    outcome = await play(
        Says([" x"]), environment, TOKENIZER, episode_set(groups=1, group_size=4, concurrency=4)
    )
    ends = {t.sample: t.end for t in outcome.transitions}
    assert sorted(ends.values()) == ["done", "done", "done", "failed"]
    (lost,) = [t for t in outcome.transitions if t.end == "failed"]
    assert "the page is gone" in lost.error
    assert len(lost.logprobs) == len(lost.completion_tokens) > 0  # what was sampled is there
    assert [str(failure) for failure in outcome.failures] == [lost.error]


async def test_a_task_that_can_not_begin_gets_a_second_chance() -> None:
    transitions = await played(Says([" x"]), broken("reset", OSError("dead"), [1]), groups=1)
    assert [t.end for t in transitions] == ["done", "done"]


@pytest.mark.parametrize(("allowed", "fails"), [(0.5, False), (0.49, True)])
async def test_how_many_may_fail(allowed: float, fails: bool) -> None:
    environment = broken("step", OSError("gone"), episodes=[1, 2])
    limits = Limits(max_failed=allowed)
    episodes = episode_set(limits, groups=1, group_size=4)
    outcome = play(Says([" x"]), environment, TOKENIZER, episodes)
    if fails:
        with pytest.raises(BadData, match="gone"):
            await outcome
    else:
        assert len((await outcome).failures) == 2


class Hanging(Counter):
    async def step(self, action: str) -> Turn:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_call_that_hangs_has_failed() -> None:
    limits = Limits(call_timeout_s=0.05, max_failed=1)
    transitions = await played(Says([" x"]), Family(Hanging), limits=limits, groups=1)
    assert {t.end for t in transitions} == {"failed"}
    assert "no answer within 0.05 s" in transitions[0].error


async def test_instances_are_used_again_and_bounded() -> None:
    environment = Counting(at_once=3)
    await played(Says([" x"]), environment, groups=4, group_size=4)
    assert 0 < len(environment.instances) <= 3
    assert sum(instance.episodes for instance in environment.instances) == 16
    assert all(instance.closed for instance in environment.instances)


async def test_one_instance_is_enough() -> None:
    environment = Counting(at_once=1)
    assert len(await played(Says([" x"]), environment, groups=3, group_size=3)) == 27


async def test_a_token_budget_ends_episodes_and_leaves_groups_out() -> None:
    length = len(TOKENIZER.encode(" x"))
    limits = Limits(token_budget=3 * length)
    outcome = await play(
        Says([" x"]), Counting(turns=9), TOKENIZER, episode_set(limits, groups=3, concurrency=2)
    )
    ends = {(t.group_id, t.sample): t.end for t in outcome.transitions}
    assert ends == {(0, 0): "budget", (0, 1): "budget"}
    assert outcome.left_out == 2
    assert 3 * length <= outcome.tokens <= 4 * length


async def test_an_episode_ends_where_the_model_has_no_room() -> None:
    limits = Limits(longest_prompt=len(TOKENIZER.encode("task 10: x next:")))
    transitions = await played(Says([" x"]), Counting(), limits=limits, groups=1)
    assert [(t.turn, t.end) for t in transitions] == 2 * [(0, ""), (1, "context")]
    with pytest.raises(
        BadData, match=r"begins with a prompt of .* tokens: the model has room for 1"
    ):
        await played(Says([" x"]), Counting(), limits=Limits(longest_prompt=1))


class Gives(Counter):
    """One turn, with the reward and the info given."""

    turn_given = Turn()

    async def step(self, action: str) -> Turn:
        return self.turn_given


def gives(**given: Any) -> Family:
    return Family(type("Gives", (Gives,), {"turn_given": Turn(done=True, **given)}))


async def test_what_it_says_is_as_readers_of_the_file_see_it() -> None:
    environment = gives(info={"a": (1, 2), 3: None}, error="no such word")
    first, _ = await played(Says([" x"]), environment, groups=1)
    assert first.info == {"a": [1, 2], "3": None}
    assert first.error == "no such word"
    assert first.actions == ["x", "y"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"info": {"a": {1}}}, "in step of group 0, raised TypeError: .*set is not JSON"),
        ({"reward": float("nan")}, "environment counting gave the reward nan: not finite"),
        ({"reward": "much"}, "in step of group 0, raised ValueError: .*'much'"),
    ],
)
async def test_what_an_environment_gives_is_checked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadData, match=says):
        await played(Says([" x"]), gives(**given), groups=1)


async def test_a_tokenizer_without_a_chat_template_takes_text_only() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    outcome = await play(Says([" x"]), Counting(turns=1), tokenizer, episode_set())
    assert len(outcome.transitions) == 4
    with pytest.raises(BadData, match="the environment's messages: Cannot use chat"):
        await play(Says([" x"]), Counting(turns=1, chat=True), tokenizer, episode_set())
