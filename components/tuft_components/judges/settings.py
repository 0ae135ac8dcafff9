"""Arguments that every reward by a judge takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuft_components.errors import BadConfiguration


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge, how it is asked, and what is kept.

    Args:
        model: of the service: a base model or tinker:// path of a policy; empty: the first model
            that is served. Of an endpoint: its name there.
        endpoint: base URL of an OpenAI-compatible server, `https://…/v1`; empty: our service.
        key_env: the variable with the endpoint's key; empty: it wants none.
        request: more fields of each request to the endpoint; null takes one of ours away.
        tries: questions about one thing, at most, where answers hold no verdict.
        on_nonsense: `neutral` or `error`: what becomes of that which has none after those.
        max_nonsense: the share of such from which on the step fails all the same, since it would
            train on noise.
        max_tokens: of an answer.
        concurrency: questions in flight.
        timeout_s: for one answer.
        retries: of a request to an endpoint that is busy or away, before the step gives up.
        backoff_s: before the first of these; it doubles each time.
        max_questions: of one step, at most; 0: any number. What is beyond is neutral, and told.
        token_budget: of one step's questions and answers; 0: any number. Once it is used up,
            nothing more is asked; answers in flight are waited for.
        cache_uri: where answers are kept by content; empty: below the step's work_uri.
        evidence_uri: where questions and answers are written for people to read; empty: as above.
    """

    model: str = ""
    endpoint: str = ""
    key_env: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 3
    on_nonsense: str = "neutral"
    max_nonsense: float = 0.5
    max_tokens: int = 256
    concurrency: int = 64
    timeout_s: float = 600.0
    retries: int = 6
    backoff_s: float = 1.0
    max_questions: int = 0
    token_budget: int = 0
    cache_uri: str = ""
    evidence_uri: str = ""

    def __post_init__(self) -> None:
        if self.on_nonsense not in ("neutral", "error"):
            raise ValueError(f"on_nonsense is {self.on_nonsense!r}: give 'neutral' or 'error'")
        if min(self.tries, self.max_tokens, self.concurrency) < 1:
            raise ValueError("tries, max_tokens and concurrency must be 1 or more")
        if min(self.retries, self.max_questions, self.token_budget) < 0:
            raise ValueError("retries, max_questions and token_budget must be 0 or more")
        if self.timeout_s <= 0 or self.backoff_s < 0:
            raise ValueError("timeout_s must be above 0, and backoff_s 0 or more")
        if not self.endpoint:
            if self.key_env or self.request:
                raise ValueError("key_env and request are for an endpoint: give that too")
            return
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint is {self.endpoint!r}: give http://… or https://…")
        if not self.model:
            raise ValueError("an endpoint needs `model`, its name there")
        self.key()

    def key(self) -> str:
        """The endpoint's key, or "" where it wants none.

        Raises:
            BadConfiguration: the variable is not set.
        """
        if self.key_env and not os.environ.get(self.key_env):
            raise BadConfiguration(
                f"the judge's key: the environment variable {self.key_env} is not set"
            )
        return os.environ[self.key_env] if self.key_env else ""
