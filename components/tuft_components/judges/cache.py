"""A judge's answers by content: who asks the same again (a step that is tried once more) gets them.

    {cache_uri}/3f/3fa8….json

One file or object an answer, there whole or not at all, written as soon as it came. The name is the
SHA-256 of the judge, the question and how it was asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging

from pydantic import BaseModel, ValidationError

from tuft_components.artifacts import read_bytes, write_bytes
from tuft_components.errors import BadData
from tuft_components.judges.models import Question, Reply

_log = logging.getLogger(__name__)


class _Entry(BaseModel):
    """`digest` is that of the question again: an entry under another one's name is not taken."""

    digest: str
    judge: str
    answer: str
    tokens: int
    cut_off: bool


def digest_of(
    judge: str, question: Question, *, temperature: float, seed: int, max_tokens: int
) -> str:
    asked = [1, judge, question.text, question.cue, temperature, seed, max_tokens]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


class AnswerCache:
    """Without a URI it is always empty."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")

    async def get(self, digest: str) -> Reply | None:
        """Raises:
        TransientFailure: the object store is away.
        """
        if not self._uri:
            return None
        uri = self._place(digest)
        try:
            data = await asyncio.to_thread(read_bytes, uri)
        except BadData:  # there is none
            return None
        try:
            entry = _Entry.model_validate_json(data)
        except ValidationError:
            entry = None
        if entry is None or entry.digest != digest:
            _log.warning("%s is no answer of a judge to its question: asking again", uri)
            return None
        return Reply(entry.answer, entry.tokens, entry.cut_off)

    async def put(self, digest: str, judge: str, reply: Reply) -> None:
        """Raises:
        TransientFailure: the object store is away.
        """
        if self._uri:
            entry = _Entry(
                digest=digest,
                judge=judge,
                answer=reply.text,
                tokens=reply.tokens,
                cut_off=reply.cut_off,
            )
            data = entry.model_dump_json().encode()
            # What a power failure takes is asked again; waiting for the disk each time is not worth it.
            await asyncio.to_thread(write_bytes, self._place(digest), data, synced=False)

    def _place(self, digest: str) -> str:
        return f"{self._uri}/{digest[:2]}/{digest}.json"
