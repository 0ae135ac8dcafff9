"""What the rewards by a judge share: opening it, its budget, what is kept, and what is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from tuft_components.errors import BadData
from tuft_components.judges.asking import Asking, Heard, Tally
from tuft_components.judges.cache import AnswerCache
from tuft_components.judges.evidence import Judgement, write_judgements
from tuft_components.judges.models import JudgeModel, Question, Reply
from tuft_components.judges.service import check_served, service_judge
from tuft_components.judges.settings import JudgeSettings
from tuft_components.trajectories import Trajectory

Reader = Callable[[JudgeModel, Reply], float | None]
"""The verdict in an answer of that judge."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Matter:
    """What one question is about: an episode, or two (`other` is the one shown second)."""

    question: Question
    episode: Trajectory
    other: Trajectory | None = None
    criterion: str = ""


class Hearing:
    def __init__(self, kind: str, settings: JudgeSettings) -> None:
        """`kind` is the reward's name."""
        self._kind, self._settings = kind, settings
        self._below, self._name = "", "judgements"
        self.metrics: dict[str, float] = {}

    def keep_below(self, work_uri: str, name: str) -> None:
        """Where the step execution of that name keeps things; `work_uri` may be empty."""
        self._below, self._name = work_uri, name

    def check(self) -> str:
        """For `preflight`: whether the judge is there.

        Raises:
            BadConfiguration: it is not. TransientFailure, tuft_sdk.SdkError: it can't be reached.
        """
        if not self._settings.endpoint:
            return check_served(self._settings)
        from tuft_components.judges.endpoint import check_endpoint

        return check_endpoint(self._settings)

    def hear(
        self, matters: Sequence[Matter], read: Reader, model: JudgeModel | None = None
    ) -> dict[Question, Heard]:
        """Ask about all of them at once, those first that matter most to a budget.

        Args:
            model: a judge that is there already; None: the one that the settings say.

        Raises:
            BadData: too many answers, or with on_nonsense any, held no verdict.
            TransientFailure, tuft_sdk.SdkError: the judge is away, or is not served.
        """
        with opened(self._settings, model) as judge:
            heard, tally = asyncio.run(self._ask(judge, matters, read))
        told = self._keep_evidence(judge.name, matters, heard)
        answered = [matter for matter in matters if heard[matter.question].tries]
        without = [m for m in answered if heard[m.question].verdict is None]
        unreached = len(matters) - len(answered)
        self.metrics = {
            "judge_questions": float(tally.asked),
            "judge_cached": float(tally.cached),
            "judge_tokens": float(tally.tokens),
            "judge_without_verdict": float(len(without)),
            "judge_over_budget": float(unreached),
        }
        self._tell(without, unreached, len(matters), told)
        return heard

    async def _ask(
        self, judge: JudgeModel, matters: Sequence[Matter], read: Reader
    ) -> tuple[dict[Question, Heard], Tally]:
        cache_uri = self._settings.cache_uri
        if not cache_uri and self._below:
            cache_uri = f"{self._below}/judge-cache"
        asking = Asking(judge, AnswerCache(cache_uri), self._settings)
        try:
            heard = await asking.ask(
                [matter.question for matter in matters], lambda reply: read(judge, reply)
            )
        finally:
            await judge.close()
        return heard, asking.tally

    def _keep_evidence(
        self, judge: str, matters: Sequence[Matter], heard: dict[Question, Heard]
    ) -> str:
        """Where it was written, for messages; empty where nowhere."""
        folder = self._settings.evidence_uri.rstrip("/")
        if not folder and self._below:
            folder = f"{self._below}/judgements"
        if not folder:
            return ""
        # Several rewards may judge the same episodes: `rescore` exists for that.
        asked = sorted({matter.question.text for matter in matters})
        ours = [self._kind, judge, asdict(self._settings), asked]
        digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()[:8]
        uri = f"{folder}/{self._name}-{digest}.parquet"
        rows = list(judgements(judge, matters, heard))
        write_judgements(uri, rows, {"reward": self._kind, "judge": judge})
        return uri

    def _tell(self, without: Sequence[Matter], unreached: int, number: int, told: str) -> None:
        evidence = f"; what it was asked and said is in {told}" if told else ""
        if unreached:
            _log.warning(
                "the budget of the judge did not reach %d of %d questions; what they are about "
                "counts as neutral%s",
                unreached,
                number,
                evidence,
            )
        if not without:
            return
        settings = self._settings
        said = (
            f"the judge gave no verdict to {len(without)} of {number} questions in "
            f"{settings.tries} tries each; the first are about (iteration, group, sample) "
            f"{', '.join(str(matter.episode.key) for matter in without[:3])}{evidence}"
        )
        asked = number - unreached
        if settings.on_nonsense == "error" or len(without) > settings.max_nonsense * asked:
            raise BadData(f"{said}. Take a stronger model, a plainer rubric, or more max_tokens")
        _log.warning("%s; they count as neutral", said)


@contextmanager
def opened(settings: JudgeSettings, model: JudgeModel | None) -> Iterator[JudgeModel]:
    """The judge that the settings say, or `model`."""
    if model is not None:
        yield model
    elif settings.endpoint:
        from tuft_components.judges.endpoint import EndpointJudge

        yield EndpointJudge(settings)
    else:
        with service_judge(settings) as served:
            yield served


def judgements(
    judge: str, matters: Sequence[Matter], heard: dict[Question, Heard]
) -> Iterable[Judgement]:
    """A row for each answer; for a question that was not asked, one with the source `budget`."""
    seen: set[Question] = set()
    for matter in matters:
        iteration, group_id, sample = matter.episode.key
        unasked = Judgement(
            iteration=iteration,
            group_id=group_id,
            sample=sample,
            other=matter.other.key[2] if matter.other else None,
            criterion=matter.criterion,
            attempt=0,
            judge=judge,
            question=matter.question.text,
            answer="",
            score=None,
            source="budget",
            error="",
            tokens=0,
        )
        tries = heard[matter.question].tries
        again = matter.question in seen
        seen.add(matter.question)
        if not tries:
            yield unasked
        for number, one in enumerate(tries):
            yield replace(
                unasked,
                attempt=number,
                answer=one.reply.text,
                score=one.verdict,
                source="same" if again else one.source,
                error=one.reply.refused,
                tokens=0 if again else one.reply.tokens,
            )
