"""The reward `judge_pairwise`: a language model compares the episodes of a group, two by two.

    --param reward=judge_pairwise --param reward_args='{"rubric": "Which answer is clearer?"}'

The reward is the share of comparisons won; a tie counts half. Judges prefer what they see first (or
second), so that each two are shown in both orders: one that is not called better in both is not
better. (Zheng et al., Judging LLM-as-a-Judge, arXiv 2306.05685, §3.4: swapping positions.) The mean
of a group's rewards is always 0.5: they say who was better in it, not whether the group got better.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from tuft_components.errors import BadConfiguration
from tuft_components.judges.asking import Heard
from tuft_components.judges.hearing import Hearing, Matter
from tuft_components.judges.models import JudgeModel, Question, Reply
from tuft_components.judges.questions import choice_in, comparing, record_of
from tuft_components.judges.settings import JudgeSettings
from tuft_components.trajectories import Trajectory

RUBRIC = "You are a strict judge. Say which of two tries solved the task better."
Key = tuple[int, int, int]
Pair = tuple[Trajectory, Trajectory]
_TIE = 0.5


class JudgePairwise:
    """Rewards from 0 (lost against all it was compared with) to 1.

    Args:
        rubric: what to look at, in plain words.
        opponents: with how many others of its group an episode is compared (an odd number may be
            one more); 0: with all. Each comparison is two questions.
        longest_text: letters of each episode that the judge is shown.
        settings: of `JudgeSettings`. What has no verdict in both orders is a tie.
    """

    def __init__(
        self,
        *,
        rubric: str = RUBRIC,
        opponents: int = 0,
        longest_text: int = 6_000,
        **settings: Any,
    ) -> None:
        if not rubric.strip():
            raise ValueError("rubric is empty: say what to look at")
        if opponents < 0 or longest_text < 1:
            raise ValueError("opponents must be 0 or more, and longest_text 1 or more")
        self._rubric, self._opponents, self._longest = rubric, opponents, longest_text
        self._hearing = Hearing("judge_pairwise", JudgeSettings(**settings))
        self._rewards: dict[Key, float] = {}
        self._of_pairs: dict[str, float] = {}
        self.keep_below = self._hearing.keep_below
        self.check = self._hearing.check

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        """Ask about all of them at once; as `Hearing.hear`."""
        self.judge(trajectories)

    def judge(self, trajectories: Sequence[Trajectory], model: JudgeModel | None = None) -> None:
        """`prepare`, by a judge that is there already, if one is given.

        Raises:
            BadConfiguration: no group has two episodes.
        """
        groups: dict[tuple[int, int], list[Trajectory]] = {}
        for trajectory in trajectories:
            groups.setdefault(trajectory.key[:2], []).append(trajectory)
        if all(len(group) < 2 for group in groups.values()):
            raise BadConfiguration(
                "judge_pairwise compares the episodes of a group, and no group has two: use it "
                "where group_size is 2 or more, and for an evaluation `judge`"
            )
        pairs = _in_turn([pairs_of(group, self._opponents) for group in groups.values()])
        # Two that are the same need no judge.
        differ = [pair for pair in pairs if self._record(pair[0]) != self._record(pair[1])]
        orders = [(first, second) for a, b in differ for first, second in ((a, b), (b, a))]
        matters = [
            Matter(comparing(first, second, self._rubric, self._longest), first, second)
            for first, second in orders
        ]
        heard = self._hearing.hear(matters, _read, model) if matters else {}
        self._score(pairs, {(m.episode.key, m.other.key): m for m in matters if m.other}, heard)
        for alone in (one.key for one in trajectories if one.key not in self._rewards):
            self._rewards[alone] = _TIE

    def __call__(self, trajectory: Trajectory) -> float:
        if trajectory.key not in self._rewards:
            raise KeyError(f"episode {trajectory.key} was not among those that were compared")
        return self._rewards[trajectory.key]

    def metrics(self) -> dict[str, float]:
        return {**self._hearing.metrics, **self._of_pairs}

    def _record(self, trajectory: Trajectory) -> str:
        return record_of(trajectory, self._longest)

    def _score(
        self,
        pairs: Sequence[Pair],
        matters: Mapping[tuple[Key, Key], Matter],
        heard: Mapping[Question, Heard],
    ) -> None:
        won: dict[Key, list[float]] = {}
        ties = swayed = 0
        for a, b in pairs:
            both = [matters.get((a.key, b.key)), matters.get((b.key, a.key))]
            said = [heard[matter.question].verdict if matter else None for matter in both]
            worth = agreed(said[0], said[1])
            ties += worth == _TIE
            swayed += said[0] is not None and said[0] == said[1] != _TIE
            won.setdefault(a.key, []).append(worth)
            won.setdefault(b.key, []).append(1.0 - worth)
        self._rewards = {key: sum(each) / len(each) for key, each in won.items()}
        self._of_pairs = {
            "judge_pairs": float(len(pairs)),
            "judge_ties": float(ties),
            "judge_swayed_by_order": float(swayed),
        }


def agreed(shown_first: float | None, shown_second: float | None) -> float:
    """What an episode gets from its comparison with another: 1, 0.5 or 0.

    The arguments are the verdicts on whichever was shown first: with this one first, and second.
    """
    if shown_first is None or shown_second is None or shown_first + shown_second != 1.0:
        return _TIE
    return shown_first


def pairs_of(group: Sequence[Trajectory], opponents: int) -> list[Pair]:
    """Who is compared with whom: all with all, or each with about `opponents` others.

    As on a round table on which each is compared with its next neighbours: every one has as many
    comparisons as every other. Who sits where follows from the group's number.
    """
    seats = list(group)
    number, length = group[0].key[:2], len(group)
    random.Random(f"{number}").shuffle(seats)
    if opponents == 0 or opponents >= length - 1:
        return [(seats[i], seats[j]) for i in range(length) for j in range(i + 1, length)]
    pairs = [
        (seats[i], seats[(i + step) % length])
        for step in range(1, opponents // 2 + 1)
        for i in range(length)
    ]
    if opponents % 2 == 0:
        return pairs
    if length % 2 == 0:  # and with the one opposite
        return pairs + [(seats[i], seats[i + length // 2]) for i in range(length // 2)]
    step = opponents // 2 + 1
    return pairs + [(seats[i], seats[(i + step) % length]) for i in range(length)]


def _in_turn(lists: Sequence[Sequence[Pair]]) -> list[Pair]:
    """The first of each, the second of each …: a budget then leaves no group out before others."""
    return [pair for pair in chain.from_iterable(zip_longest(*lists)) if pair is not None]


def _read(model: JudgeModel, reply: Reply) -> float | None:
    return choice_in(reply, chat=model.chat)
