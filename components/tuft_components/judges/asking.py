"""Many questions to a judge: in flight together, once each, within a budget, nothing asked twice.

The first try is at temperature 0. Where an answer holds no verdict, the judge is asked again, at
temperature 0.7 and with seeds that follow from the question: the same questions get the same
verdicts from the same judge.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tuft_components.judges.cache import AnswerCache, digest_of
from tuft_components.judges.models import JudgeModel, Question, Reply
from tuft_components.judges.settings import JudgeSettings

Source = Literal["asked", "cached"]
_WARM = 0.7


@dataclass(frozen=True)
class Try:
    """One answer; `verdict` is None where it holds none."""

    reply: Reply
    verdict: float | None
    source: Source


@dataclass
class Heard:
    """What came of one question. Without tries, the budget did not reach it."""

    tries: list[Try] = field(default_factory=list)

    @property
    def verdict(self) -> float | None:
        return self.tries[-1].verdict if self.tries else None


@dataclass
class Tally:
    """Numbers of all that was asked."""

    asked: int = 0
    cached: int = 0
    tokens: int = 0
    refused: int = 0


class Asking:
    """What an earlier try of the step had asked counts against the budget as if it was asked now:
    what is left out should not depend on where that try died."""

    def __init__(self, model: JudgeModel, cache: AnswerCache, settings: JudgeSettings) -> None:
        self._model, self._cache, self._settings = model, cache, settings
        self._room = asyncio.Semaphore(settings.concurrency)
        self._admitted = 0
        self.tally = Tally()

    async def ask(
        self, questions: Sequence[Question], read: Callable[[Reply], float | None]
    ) -> dict[Question, Heard]:
        """All of them, in the order of their importance to a budget; equal ones once.

        Raises:
            As `JudgeModel.ask` does, for the first that fails; answers that came are kept.
        """
        heard = {question: Heard() for question in questions}
        for number in range(self._settings.tries):
            # By rounds, so that nobody's second try takes the budget of another's first.
            left = [question for question, one in heard.items() if _open(one, number)]
            await _all(
                self._one(question, heard[question], number, read)
                for question in left[: self._questions_left(len(left))]
            )
        return heard

    def _questions_left(self, wanted: int) -> int:
        limit = self._settings.max_questions
        allowed = wanted if limit == 0 else min(wanted, limit - self._admitted)
        self._admitted += allowed
        return allowed

    async def _one(
        self,
        question: Question,
        heard: Heard,
        number: int,
        read: Callable[[Reply], float | None],
    ) -> None:
        async with self._room:
            budget = self._settings.token_budget
            if budget and self.tally.tokens >= budget:
                return
            reply, source = await self._reply(question, number)
            self.tally.tokens += reply.tokens
            verdict = None if reply.refused else read(reply)
            heard.tries.append(Try(reply, verdict, source))

    async def _reply(self, question: Question, number: int) -> tuple[Reply, Source]:
        seed = hashlib.sha256(question.text.encode()).digest()[:3]
        how: dict[str, Any] = {
            "temperature": _WARM if number else 0.0,
            "seed": int.from_bytes(seed, "big") + number,
        }
        digest = digest_of(self._model.name, question, max_tokens=self._settings.max_tokens, **how)
        kept = await self._cache.get(digest)
        if kept is not None:
            self.tally.cached += 1
            return kept, "cached"
        reply = await self._model.ask(question, **how)
        self.tally.asked += 1
        if reply.refused:  # may be otherwise when the endpoint is set up otherwise
            self.tally.refused += 1
        else:
            await self._cache.put(digest, self._model.name, reply)
        return reply, "asked"


def _open(heard: Heard, number: int) -> bool:
    """Whether another try may help: the last one was answered, and held no verdict."""
    if len(heard.tries) < number:
        return False
    return heard.verdict is None and not (heard.tries and heard.tries[-1].reply.refused)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """The first failure ends the others, and is raised."""
    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:
        raise first
