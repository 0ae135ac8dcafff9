"""Sandboxes of a runner elsewhere (`tuft_components.sandbox.server`)."""

from __future__ import annotations

import logging
import random
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tuft_components.errors import BadConfiguration, BadData, TransientFailure
from tuft_components.sandbox.jobs import Job, Result

if TYPE_CHECKING:
    import httpx

_PATIENCE_S = 300.0
_TURN_S = 120.0
"""Until a job that the runner has taken gets its turn."""
_AGAIN = (429, 502, 503, 504)
_log = logging.getLogger(__name__)


class RemoteSandbox:
    """Asks again while the runner is full or away: what it does leaves nothing behind."""

    def __init__(self, url: str, token: str, *, patience_s: float = _PATIENCE_S) -> None:
        """Raises:
        BadConfiguration: there is no token, or no address.
        """
        if not url.startswith(("http://", "https://")):
            raise BadConfiguration(f"TUFT_SANDBOX_URL is {url!r}: it must begin with http://")
        if not token:
            raise BadConfiguration("set TUFT_SANDBOX_TOKEN: the sandbox runner's token")
        self._url = url.rstrip("/")
        self._token = token
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def check(self) -> str:
        """As `Sandbox.check`."""
        said = self._ask("GET", "/check", None, 60.0).json()
        return f"the sandbox runner {self._url}: {said['sandbox']}"

    def run(self, job: Job) -> Result:
        """As `Sandbox.run`.

        Raises:
            BadData: the runner does not take such a job.
        """
        body = job.model_dump_json().encode()
        answer = self._ask("POST", "/run", body, job.limits.wall_s + _TURN_S)
        try:
            return Result.model_validate_json(answer.content)
        except ValidationError as error:
            raise BadConfiguration(f"{self._url} is no sandbox runner: {error}") from error

    def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> httpx.Response:
        import httpx

        until, wait = monotonic() + self._patience_s, 0.1
        while True:
            try:
                answer = self._connected().request(
                    method, self._url + path, content=body, timeout=timeout_s
                )
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            except httpx.InvalidURL as error:
                raise BadConfiguration(f"TUFT_SANDBOX_URL {self._url!r}: {error}") from error
            else:
                if answer.status_code not in _AGAIN:
                    return self._understood(answer)
                why = f"{answer.status_code} {answer.text[:200]}"
            if monotonic() + wait > until:
                raise TransientFailure(f"the sandbox runner {self._url} does not answer: {why}")
            _log.debug("the sandbox runner %s: %s; asking again", self._url, why)
            sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, 5.0)

    def _understood(self, answer: httpx.Response) -> httpx.Response:
        status, text = answer.status_code, answer.text[:500]
        if status == 200:
            return answer
        if status in (401, 403):
            raise BadConfiguration(
                f"the sandbox runner {self._url} takes another token: set TUFT_SANDBOX_TOKEN"
            )
        if status in (413, 422):
            raise BadData(f"the sandbox runner takes no such job: {text}")
        raise BadConfiguration(
            f"{self._url} is no sandbox runner, or a broken one: {status} {text}"
        )

    def _connected(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._client is None:
                headers = {"Authorization": f"Bearer {self._token}"}
                room = httpx.Limits(max_connections=256, max_keepalive_connections=32)
                # Not through a proxy that the variables of a pod name for the internet.
                self._client = httpx.Client(headers=headers, limits=room, trust_env=False)
            return self._client
