"""Play episodes of an environment with a policy, concurrently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tuft_components.conversation import Conversation
from tuft_components.envs.base import Environment, EnvironmentFamily, Observation, Turn
from tuft_components.envs.instances import Instances
from tuft_components.episode import EpisodeFailed, Play, Setting
from tuft_components.episodes import EpisodeSet, Policy
from tuft_components.errors import BadConfiguration, BadData, StepError
from tuft_components.progress import Progress
from tuft_components.trajectories import Transition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

GroupPlayed = Callable[[int, list[Transition]], Awaitable[None]]
"""Gets the number of a group and its transitions as soon as its episodes are done."""


@dataclass
class Outcome:
    """What came of playing.

    Args:
        transitions: of all episodes, those that failed after their first action among them.
        failures: why episodes failed.
        never_begun: episodes of groups whose task could not begin; they are among the failures.
        left_out: groups that were not begun, since a budget was used up.
        tokens, seconds: what was used.
    """

    transitions: list[Transition] = field(default_factory=list)
    failures: list[StepError] = field(default_factory=list)
    never_begun: int = 0
    left_out: int = 0
    tokens: int = 0
    seconds: float = 0.0


async def play(
    policy: Policy,
    environment: EnvironmentFamily,
    tokenizer: PreTrainedTokenizerBase,
    episodes: EpisodeSet,
    *,
    skip: Container[int] = (),
    on_group: GroupPlayed | None = None,
) -> Outcome:
    """Play all episodes, but for the groups to `skip`.

    An episode in which the environment raises, or takes too long, has failed; the others go on.

    Raises:
        BadConfiguration: there is no such task.
        StepError: of the first failure, where more episodes failed than may. Groups with an
            episode that did not fail have gone through `on_group`.
        tuft_sdk.SdkError: the policy could not be sampled from.
    """
    wanted = [group_id for group_id in episodes.group_ids() if group_id not in skip]
    limits = episodes.limits
    progress = Progress(len(wanted) * episodes.group_size, limits)
    instances = Instances(environment, limits.call_timeout_s)
    setting = Setting(
        policy, environment.stop, environment.tools, instances, tokenizer, episodes, progress
    )
    player = _Player(setting, on_group)
    room = asyncio.Semaphore(max(1, episodes.concurrency // episodes.group_size))

    async def play_one(group_id: int) -> None:
        async with room:
            await player.play(group_id)

    try:
        await _together(map(play_one, wanted))
    finally:
        await instances.close()
    outcome = player.outcome
    outcome.tokens, outcome.seconds = progress.tokens, progress.seconds()
    _check(outcome, episodes, len(wanted))
    return outcome


def _check(outcome: Outcome, episodes: EpisodeSet, groups: int) -> None:
    played = (groups - outcome.left_out) * episodes.group_size
    if outcome.failures:
        first = outcome.failures[0]
        _log.warning(
            "%d of %d episodes failed; the first: %s", len(outcome.failures), played, first
        )
        if len(outcome.failures) > episodes.limits.max_failed * played:
            raise first
    if groups and not played:
        raise BadConfiguration("the budget was used up before the first group: give more")


class _Player:
    """Groups of episodes. Those of one group begin alike: their first actions are one request."""

    def __init__(self, setting: Setting, on_group: GroupPlayed | None) -> None:
        self._setting = setting
        self._size = setting.episodes.group_size
        self._on_group = on_group
        self.outcome = Outcome()

    async def play(self, group_id: int) -> None:
        if self._setting.progress.used_up():
            self.outcome.left_out += 1
            return
        plays = [Play(self._setting, group_id, number) for number in range(self._size)]
        try:
            instance, first = await _begun(plays[0])
        except EpisodeFailed as failed:
            self.outcome.failures += [failed.error] * self._size
            self.outcome.never_begun += self._size
            return
        await self._play(plays, instance, first)
        transitions = [each for play in plays for each in play.transitions]
        failures = [play.failure for play in plays if play.failure is not None]
        self.outcome.transitions += transitions
        self.outcome.failures += failures
        if self._on_group is not None and len(failures) < len(plays):
            await self._on_group(group_id, transitions)

    async def _play(self, plays: Sequence[Play], instance: Environment, first: Turn) -> None:
        try:
            seen, prompt = self._shown(plays[0].group_id, first)
            samples = await plays[0].sample(prompt, self._size, turn=0)
        except BaseException:
            # Whatever it was, also an interruption: nobody else would close the instance.
            await self._setting.instances.drop(instance)
            raise
        begun = [(instance, first), *[None] * (self._size - 1)]
        await _together(
            [
                play.run(sample, first, started, seen)
                for play, sample, started in zip(plays, samples, begun, strict=True)
            ]
        )

    def _shown(self, group_id: int, first: Turn) -> tuple[Observation, list[int]]:
        """What the policy sees first, and that as a prompt. A hint must fit, or is left out."""
        setting, longest = self._setting, self._setting.episodes.limits.longest_prompt
        again = setting.episodes.again.get(group_id)
        hinted = [again.shown(first.observation)] if again and again.hint else []
        for seen in (*hinted, first.observation):
            prompt, _ = Conversation(setting.tokenizer, setting.tools).observe(seen)
            if longest is None or len(prompt) <= longest:
                return seen, prompt
        raise BadData(
            f"environment {setting.episodes.env} begins with a prompt of {len(prompt)} tokens: "
            f"the model has room for {longest} beside the new ones"
        )


async def _begun(play: Play) -> tuple[Environment, Turn]:
    """An instance in which the task has begun. It gets a second chance, on another instance."""
    try:
        return await play.begin()
    except EpisodeFailed as failed:
        _log.warning("%s; trying once more", failed)
        return await play.begin()


async def _together(parts: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all; where one raises, the others are cancelled and waited for first."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
