"""The reward `judge`: a language model reads each episode and scores it.

    --param reward=judge --param reward_args='{"rubric": "Is the answer polite and right?"}'

`tuft_components.judges.settings` tells which judge may be asked, and how; docs/feedback.md the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuft_components.judges.asking import Heard
from tuft_components.judges.hearing import Hearing, Matter
from tuft_components.judges.models import JudgeModel, Question, Reply
from tuft_components.judges.questions import Scale, score_in, scoring
from tuft_components.judges.settings import JudgeSettings
from tuft_components.trajectories import Trajectory

RUBRIC = "You are a strict judge. Say how well the task below was solved."
Key = tuple[int, int, int]


class Judge:
    """Rewards from 0 (the lowest score) to 1 (the highest).

    Args:
        rubric: what to look at, in plain words.
        criteria: several things to look at, each asked for by itself, and their weights; the
            reward is the weighted mean. The rubric stands before each.
        lowest, highest: the scale that the judge is asked to use.
        neutral: the score of an episode without one. None: the mean of its group's, so that it
            says nothing about what was better there (where the group has none: the middle).
        longest_text: letters of an episode that the judge is shown.
        settings: of `JudgeSettings`.
    """

    def __init__(
        self,
        *,
        rubric: str = RUBRIC,
        criteria: Mapping[str, float] | None = None,
        lowest: float = 0,
        highest: float = 10,
        neutral: float | None = None,
        longest_text: int = 12_000,
        **settings: Any,
    ) -> None:
        if not lowest < highest:
            raise ValueError(f"lowest is {lowest} and highest {highest}: give a range")
        if not rubric.strip():
            raise ValueError("rubric is empty: say what to look at")
        if longest_text < 1:
            raise ValueError("longest_text must be 1 or more")
        if neutral is not None and not lowest <= neutral <= highest:
            raise ValueError(f"neutral is {neutral}: it must be on the scale")
        self._weights = {"": 1.0} if criteria is None else _weights(criteria)
        self._scale = Scale(float(lowest), float(highest))
        self._rubric, self._longest = rubric, longest_text
        self._neutral = None if neutral is None else float(neutral)
        self._hearing = Hearing("judge", JudgeSettings(**settings))
        self._scores: dict[Key, float] = {}
        self.keep_below = self._hearing.keep_below
        self.check = self._hearing.check

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        """Ask about all of them at once; as `Hearing.hear`."""
        self.judge(trajectories)

    def judge(self, trajectories: Sequence[Trajectory], model: JudgeModel | None = None) -> None:
        """`prepare`, by a judge that is there already, if one is given."""
        matters = [
            Matter(self._question(one, criterion), one, criterion=criterion)
            for one in trajectories
            for criterion in self._weights
        ]
        heard = self._hearing.hear(matters, self._read, model)
        whole = sum(self._weights.values())
        scores = dict.fromkeys((one.key for one in trajectories), 0.0)
        for criterion, weight in self._weights.items():
            of_it = [matter for matter in matters if matter.criterion == criterion]
            for key, score in self._filled(of_it, heard).items():
                scores[key] += score * weight / whole
        self._scores |= scores

    def __call__(self, trajectory: Trajectory) -> float:
        if trajectory.key not in self._scores:
            self.prepare([trajectory])
        scale = self._scale
        return (self._scores[trajectory.key] - scale.lowest) / (scale.highest - scale.lowest)

    def metrics(self) -> dict[str, float]:
        return self._hearing.metrics

    def _question(self, trajectory: Trajectory, criterion: str) -> Question:
        rubric = self._rubric.strip()
        if criterion:
            rubric += f"\nLook at this alone: {criterion.strip()}"
        return scoring(trajectory, rubric, self._scale, self._longest)

    def _read(self, model: JudgeModel, reply: Reply) -> float | None:
        return score_in(reply, self._scale, chat=model.chat)

    def _filled(
        self, matters: Sequence[Matter], heard: Mapping[Question, Heard]
    ) -> dict[Key, float]:
        """The scores by one criterion, with neutral ones where there is none."""
        found = {matter.episode.key: heard[matter.question].verdict for matter in matters}
        groups: dict[tuple[int, int], list[float]] = {}
        for key, score in found.items():
            if score is not None:
                groups.setdefault(key[:2], []).append(score)
        filled = {}
        for key, score in found.items():
            neutral, of_group = self._neutral, groups.get(key[:2], [])
            if neutral is None:
                neutral = sum(of_group) / len(of_group) if of_group else self._scale.middle
            filled[key] = neutral if score is None else score
        return filled


def _weights(criteria: Mapping[str, float]) -> dict[str, float]:
    weights = {str(criterion): float(weight) for criterion, weight in criteria.items()}
    if not weights or any(not criterion.strip() for criterion in weights):
        raise ValueError("criteria is empty: give what to look at, and its weight")
    if not all(0 < weight < float("inf") for weight in weights.values()):
        raise ValueError("criteria: each weight must be above 0, and finite")
    return weights
