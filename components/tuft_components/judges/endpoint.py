"""A judge behind any OpenAI-compatible endpoint: POST {endpoint}/chat/completions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import httpx

from tuft_components.errors import BadConfiguration, BadData, TransientFailure
from tuft_components.judges.models import Question, Reply
from tuft_components.judges.settings import JudgeSettings

_BUSY = frozenset({408, 409, 425, 429})
_ONE_QUESTION = frozenset({400, 413, 422})
"""What an endpoint says of one question: too long, or against its rules."""
_LONGEST_WAIT_S = 60.0
_SHOWN = 300
"""Letters of an endpoint's error that are told."""


class EndpointJudge:
    chat = True

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._url = settings.endpoint.rstrip("/")
        self.name = f"{self._url} {settings.model}"
        if settings.request:
            self.name += f" {sorted(settings.request.items())}"
        self._client = httpx.AsyncClient(
            headers=_headers(settings),
            timeout=httpx.Timeout(settings.timeout_s, connect=min(settings.timeout_s, 30.0)),
            limits=httpx.Limits(max_connections=settings.concurrency),
        )

    async def ask(self, question: Question, *, temperature: float, seed: int) -> Reply:
        body = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": self._settings.max_tokens,
            "temperature": temperature,
            "seed": seed,
            **self._settings.request,
        }
        asked = {name: value for name, value in body.items() if value is not None}
        answer = await self._post(asked)
        if answer.status_code in _ONE_QUESTION:
            return Reply("", 0, refused=f"{answer.status_code}: {_excerpt(answer)}")
        _check_status(self._url, answer)
        return _reply(self._url, answer)

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        """Waits out that it is busy, or away for a while."""
        said = ""
        for number in range(self._settings.retries + 1):
            after = 0.0
            try:
                answer = await self._client.post(f"{self._url}/chat/completions", json=body)
            except httpx.TransportError as error:
                said = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if answer.status_code not in _BUSY and answer.status_code < 500:
                    return answer
                said = f"{answer.status_code}: {_excerpt(answer)}"
                after = _retry_after(answer)
            if number < self._settings.retries:
                doubled = self._settings.backoff_s * 2**number
                # Those who were turned away together do not come back together.
                wait = min(_LONGEST_WAIT_S, max(after, doubled * random.uniform(0.5, 1.0)))
                await asyncio.sleep(wait)
        raise TransientFailure(
            f"the judge at {self._url} did not answer in {self._settings.retries + 1} requests; "
            f"the last time: {said}"
        )


def check_endpoint(settings: JudgeSettings) -> str:
    """For `preflight`: by its list of models, which costs nothing.

    Raises:
        BadConfiguration: it refuses the key, or does not know the model.
        TransientFailure: it is away.
    """
    url = settings.endpoint.rstrip("/")
    try:
        answer = httpx.get(
            f"{url}/models", headers=_headers(settings), timeout=min(settings.timeout_s, 30.0)
        )
    except httpx.TransportError as error:
        raise TransientFailure(f"the judge at {url} can't be reached: {error}") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        return f"{url} answers; it has no list of models to find {settings.model} in"
    if answer.status_code in _BUSY or answer.status_code >= 500:
        raise TransientFailure(f"the judge at {url} answers {answer.status_code}")
    _check_status(url, answer)
    try:
        models = [str(model["id"]) for model in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return f"{url} answers; its list of models is none of OpenAI's form"
    if settings.model not in models:
        raise BadConfiguration(
            f"{url} has no model {settings.model!r}; there are: {', '.join(models[:20])}"
        )
    return f"the judge {settings.model} is at {url}"


def _headers(settings: JudgeSettings) -> dict[str, str]:
    key = settings.key()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _check_status(url: str, answer: httpx.Response) -> None:
    """Raises:
    BadConfiguration: no question will be answered.
    """
    if answer.is_success:
        return
    why = {401: "it refuses the key", 403: "it refuses the key"}.get(
        answer.status_code, "are endpoint and model right?"
    )
    raise BadConfiguration(f"the judge at {url}: {why} ({answer.status_code}: {_excerpt(answer)})")


def _reply(url: str, answer: httpx.Response) -> Reply:
    try:
        told = answer.json()
        choice = told["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError(f"its content is a {type(text).__name__}")
        tokens = int((told.get("usage") or {}).get("total_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadData(
            f"the judge at {url} gave no chat completion ({type(error).__name__}: {error}): "
            f"{_excerpt(answer)}"
        ) from error
    return Reply(text, tokens, cut_off=choice.get("finish_reason") == "length")


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that it asks to wait; 0 where it does not say so, or says a date."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _excerpt(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())
    return text[:_SHOWN] + ("…" if len(text) > _SHOWN else "") or "(nothing)"
