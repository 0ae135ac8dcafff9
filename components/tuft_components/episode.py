"""One episode, turn by turn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from tuft_components.conversation import Conversation
from tuft_components.envs.base import Environment, Observation, Task, Turn
from tuft_components.envs.instances import Instances
from tuft_components.envs.tool_calls import with_calls_in_tags
from tuft_components.episodes import EpisodeSet, Policy, Sample
from tuft_components.errors import BadConfiguration, BadData, StepError
from tuft_components.progress import Progress
from tuft_components.trajectories import Transition
from tuft_components.user_code import user_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EpisodeFailed(Exception):
    """The environment failed, with this error."""

    def __init__(self, error: StepError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Setting:
    """What all episodes of a rollout share."""

    policy: Policy
    stop: Sequence[str]
    tools: Sequence[Mapping[str, Any]]
    instances: Instances
    tokenizer: PreTrainedTokenizerBase
    episodes: EpisodeSet
    progress: Progress


class Play:
    """Afterwards `transitions` has what was played, and `failure` why it failed, if it did."""

    def __init__(self, setting: Setting, group_id: int, number: int) -> None:
        self._setting = setting
        self._set = setting.episodes
        self.group_id, self._number = group_id, number
        self._conversation = Conversation(setting.tokenizer, setting.tools)
        self._prompt: list[int] = []
        self._new = 0
        self.transitions: list[Transition] = []
        self.failure: StepError | None = None

    async def begin(self) -> tuple[Environment, Turn]:
        """An instance in which the task has begun.

        Raises:
            EpisodeFailed: it could not begin. BadConfiguration: there is no such task.
        """
        task = self._set.task_of(self.group_id)
        with self._failing("open"):
            instance = await self._setting.instances.take()
        try:
            with self._failing("reset"):
                return instance, await self._begun(instance, task)
        except BaseException:
            # Whatever it was, also an interruption: the instance is in an unknown state.
            await self._setting.instances.drop(instance)
            raise

    async def _begun(self, instance: Environment, task: Task) -> Turn:
        try:
            return await self._setting.instances.bounded(instance.reset(task))
        except ValueError as error:
            raise BadConfiguration(f"environment {self._set.env}: {error}") from error

    async def sample(self, prompt: Sequence[int], count: int, *, turn: int) -> list[Sample]:
        """Actions of `count` episodes of the group, from this one on."""
        samples = await self._setting.policy.sample(
            prompt, count, seed=self._sampling_seed(turn), stop=self._setting.stop
        )
        self._setting.progress.sampled(sum(len(sample.tokens) for sample in samples))
        return samples

    async def run(
        self,
        sample: Sample,
        first: Turn,
        begun: tuple[Environment, Turn] | None,
        seen: Observation,
    ) -> None:
        """Play on from the first action. `first` is what the group's first episode began with,
        and `seen` what the policy was shown of that: more, where there is a hint.

        Raises:
            BadData: the task began otherwise. tuft_sdk.SdkError: the policy can't be sampled from.
        """
        self._see(seen)
        try:
            instance, turn = begun or await self.begin()
            await self._run(instance, turn, first, sample)
        except EpisodeFailed as failed:
            self.failure = failed.error
            self._fail(sample)
        finally:
            reward = sum(each.env_reward for each in self.transitions)
            self._setting.progress.finished(reward, failed=self.failure is not None)

    async def _run(self, instance: Environment, turn: Turn, first: Turn, sample: Sample) -> None:
        whole = False
        try:
            if turn.observation != first.observation:
                raise BadData(
                    f"the episodes of group {self.group_id} begin differently: an environment "
                    "must give the same task for the same (split, seed, index)"
                )
            await self._turns(instance, turn, sample)
            whole = True
        finally:
            if whole:
                self._setting.instances.give(instance)
            else:
                await self._setting.instances.drop(instance)

    async def _turns(self, instance: Environment, turn: Turn, sample: Sample) -> None:
        limits = self._set.limits
        for number in range(limits.max_turns):
            if number > 0:
                (sample,) = await self.sample(self._prompt, 1, turn=number)
            actions = tuple(turn.actions)
            turn = await self._step(instance, sample)
            self._keep(sample, turn, actions)
            if turn.done:
                return self._end("done")
            self._conversation.say(sample.tokens)
            self._see(turn.observation)
            if limits.longest_prompt is not None and len(self._prompt) > limits.longest_prompt:
                return self._end("context")
            if self._setting.progress.used_up():
                return self._end("budget")
        return self._end("turns")

    async def _step(self, instance: Environment, sample: Sample) -> Turn:
        """What the environment says, its reward as a number, and its info as JSON values."""
        with self._failing("step"):
            turn = await self._setting.instances.bounded(instance.step(self._action(sample)))
            reward = float(turn.reward)
            if not isfinite(reward):
                raise BadData(f"environment {self._set.env} gave the reward {reward}: not finite")
            # As a reader of the file will see it: tuples are lists there.
            info = json.loads(json.dumps(dict(turn.info)))
        return replace(turn, reward=reward, info=info)

    def _see(self, observation: Observation) -> None:
        self._prompt, self._new = self._conversation.observe(observation)

    def _keep(self, sample: Sample, turn: Turn, actions: Sequence[str]) -> None:
        wanted = self._set
        self.transitions.append(
            Transition(
                iteration=wanted.iteration,
                group_id=self.group_id,
                sample=self._number,
                turn=len(self.transitions),
                env=wanted.env,
                task=wanted.described(self.group_id),
                policy=wanted.policy_name,
                policy_version=wanted.version(),
                prompt_tokens=self._prompt,
                observation_tokens=self._new,
                completion_tokens=list(sample.tokens),
                logprobs=list(sample.logprobs),
                prompt_text=self._text(self._prompt),
                completion_text=self._text(sample.tokens),
                stop_reason=sample.stop_reason,
                env_reward=turn.reward,
                done=turn.done,
                actions=list(actions),
                error=turn.error,
                info=turn.info,
            )
        )

    def _end(self, how: str) -> None:
        self.transitions[-1] = replace(self.transitions[-1], end=how)

    def _fail(self, sample: Sample) -> None:
        """What was sampled before stays to be looked at; nobody trains on it."""
        if not self.transitions:
            self._keep(sample, Turn(), ())
        self.transitions[-1] = replace(
            self.transitions[-1], end="failed", error=str(self.failure), done=False
        )

    @contextmanager
    def _failing(self, method: str) -> Iterator[None]:
        where = f"environment {self._set.env}, in {method} of group {self.group_id},"
        try:
            with user_code(where):
                yield
        except BadConfiguration:
            raise
        except StepError as error:
            raise EpisodeFailed(error) from error

    def _action(self, sample: Sample) -> str:
        """What the environment gets: text, with tool calls in the form that it can read."""
        setting = self._setting
        if not setting.tools:
            return self._text(sample.tokens)
        return with_calls_in_tags(setting.tokenizer, self._prompt, sample.tokens, setting.tools)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._setting.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _sampling_seed(self, turn: int) -> int:
        """31 bits that differ for every request of every round."""
        s = self._set
        sample_round = s.iteration if s.sample_round is None else s.sample_round
        task = s.first_index + self.group_id
        text = f"{s.split}/{s.seed}/{sample_round}/{task}/{turn}/{self._number}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
