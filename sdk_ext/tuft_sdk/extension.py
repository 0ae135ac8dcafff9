"""HTTP client of the service's own endpoints, which lie beside the Tinker API."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tuft_sdk.errors import Transient, from_status

WRITER_EPOCH_HEADER = "X-Tuft-Writer-Epoch"
STEP_KEY_HEADER = "X-Tuft-Step-Key"
_RETRIED = frozenset({408, 429})
_LONGEST_PAUSE_S = 8.0
_REQUEST_TIMEOUT_S = 60.0

# Reading all certificates takes longer than most calls.
_tls = cache(httpx.create_ssl_context)


class ExtensionClient:
    """Calls to `{base_url}/api/v1/…` with retries.

    Every endpoint called through it is idempotent, so that a call whose answer was lost is
    simply made again. 408, 429, 5xx and connection errors are retried with exponential
    backoff (or after Retry-After) until `deadline_s` seconds have passed.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        deadline_s: float = 300.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._http = httpx.Client(
            base_url=base_url.rstrip("/") + "/api/v1/",
            headers={"X-API-Key": api_key, **(headers or {})},
            timeout=httpx.Timeout(_REQUEST_TIMEOUT_S, connect=5.0),
            verify=_tls(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer, if it is below 400.

        Raises:
            SdkError: `Transient` after the deadline, else what the status and code mean.
        """
        return self._retried(
            method,
            path,
            lambda: self._http.request(
                method, path, json=json, content=content, params=params, headers=headers
            ),
        )

    def download(self, path: str, into: Path) -> None:
        """Write the answer's body to a file, without holding it in memory.

        Raises:
            SdkError: as `request`.
        """

        def send() -> httpx.Response:
            with self._http.stream("GET", path) as response:
                if response.status_code >= 400:
                    response.read()
                else:
                    with into.open("wb") as file:
                        for piece in response.iter_bytes(1 << 20):
                            file.write(piece)
            return response

        self._retried("GET", path, send)

    def _retried(
        self, method: str, path: str, send: Callable[[], httpx.Response]
    ) -> httpx.Response:
        give_up_at = time.monotonic() + self._deadline_s
        pause = 0.25
        while True:
            try:
                response = send()
            except httpx.TransportError as error:
                failure: Exception = Transient(
                    f"{method} {self._http.base_url}{path}: no connection to the service: {error}"
                )
                wait = pause
            else:
                if response.status_code < 400:
                    return response
                failure = _failure_of(method, path, response)
                if response.status_code not in _RETRIED and response.status_code < 500:
                    raise failure
                wait = _retry_after(response) or pause
            wait *= random.uniform(0.8, 1.2)
            if time.monotonic() + wait >= give_up_at:
                raise failure
            time.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def _retry_after(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:  # absent, or a date: our own backoff then
        return None
    return seconds if 0 < seconds <= 60 else None


def _failure_of(method: str, path: str, response: httpx.Response) -> Exception:
    body: object
    try:
        body = response.json()
    except ValueError:
        body = response.text
    message = f"{method} {path}: {response.status_code}: {_text_of(body)}"
    return from_status(response.status_code, message, body)


def _text_of(body: object) -> str:
    if isinstance(body, dict):
        for key in ("message", "detail", "error"):
            if key in body:
                return _text_of(body[key])
    return str(body)[:2000]
