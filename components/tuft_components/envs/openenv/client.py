"""`openenv:URL`: an environment of an OpenEnv server.

make_environment("openenv:http://localhost:8000", {"action_field": "message"})
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tuft_components.envs.base import Environment, EnvironmentFamily, Task, Turn
from tuft_components.envs.openenv.wire import (
    OURS,
    ActionForm,
    Reading,
    action_form,
    turn_of,
)
from tuft_components.envs.presenting import presented
from tuft_components.errors import BadConfiguration, BadData, TransientFailure

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_MOST_BYTES = 16 * 1024 * 1024
_ABOUT_THE_ACTION = ("VALIDATION_ERROR", "EXECUTION_ERROR")
STEP_ERRORS = ("tell", "fail")
_CONNECT_S = 10.0


def openenv(
    url: str,
    *,
    action_field: str | None = None,
    observation_field: str = "",
    without: Sequence[str] = (),
    most_characters: int = 8000,
    reset: Mapping[str, Any] | None = None,
    sessions: int = 8,
    timeout_s: float = 60.0,
    token_variable: str = "",
    step_errors: str = "tell",
    stop: Sequence[str] | None = None,
    mode: str | None = None,
) -> EnvironmentFamily:
    """
    Args:
        url: http(s) or ws(s), of the server.
        action_field: which field of the action the policy's text is; "": the text is JSON of all
            of them; None: what the server's schema leaves no doubt about.
        observation_field, without, most_characters: as `Reading` tells.
        reset: goes with each reset, beside the seed.
        sessions: at once, at most. A server has a limit too: beyond it, the client waits.
        timeout_s: for each answer.
        token_variable: the environment variable with a bearer token for the server.
        step_errors: what an error of the server's environment in a step means. tell: it is said to
            the policy, and the episode goes on, since most often the action is to blame; fail: the
            episode has failed.
        stop: ends an action; None: what the server says if it is one of ours, else a new line.
        mode: text, chat, choose or words; None: as the server says it if it is one of ours, else text.

    Raises:
        ValueError: an argument does not fit the server. ConnectionError: it is not there.
    """
    if sessions < 1 or timeout_s <= 0:
        raise ValueError("sessions and timeout_s must be more than 0")
    if step_errors not in STEP_ERRORS:
        raise ValueError(f"step_errors is {step_errors!r}; there are: {', '.join(STEP_ERRORS)}")
    server = Server(url, token_variable, timeout_s)
    schema = server.action_schema()
    form = action_form(schema, action_field)
    reading = Reading(observation_field, tuple(without), most_characters)
    ours = schema.get(OURS)
    told = _ABOUT_THE_ACTION if step_errors == "tell" else _ABOUT_THE_ACTION[:1]
    family = OpenEnvs(Dealing(server, form, reading, reset or {}, told), sessions)
    if ours is not None:
        family.stop, family.tools = tuple(ours["stop"]), tuple(ours["tools"])
    if stop is not None:
        family.stop = tuple(stop)
    if mode is None and ours is not None:
        return family
    return presented(family, mode or "text", stop=("\n",) if stop is None else tuple(stop))


class Server:
    """Where it is, and how to reach it."""

    def __init__(self, url: str, token_variable: str, timeout_s: float) -> None:
        scheme, separator, rest = url.rstrip("/").removesuffix("/ws").partition("://")
        secure = {"http": "", "ws": "", "https": "s", "wss": "s"}
        if not separator:
            scheme, rest = "http", scheme
        if scheme not in secure or not rest:
            raise ValueError(f"url is {url!r}: give http://HOST:PORT, or https, ws or wss")
        self.http, self.ws = f"http{secure[scheme]}://{rest}", f"ws{secure[scheme]}://{rest}/ws"
        self.timeout_s = timeout_s
        self.headers: dict[str, str] = {}
        if token_variable:
            if token_variable not in os.environ:
                raise BadConfiguration(f"the environment variable {token_variable} is not set")
            self.headers = {"Authorization": f"Bearer {os.environ[token_variable]}"}

    def action_schema(self) -> Mapping[str, Any]:
        """Of its actions; empty where it has no `/schema`."""
        try:
            answer = httpx.get(
                f"{self.http}/schema", headers=self.headers, timeout=_CONNECT_S, trust_env=False
            )
            if answer.status_code in (404, 405):
                return {}
            answer.raise_for_status()
            schema = answer.json().get("action")
        except httpx.TransportError as error:
            raise ConnectionError(f"no OpenEnv server at {self.http}: {error}") from error
        except (httpx.HTTPStatusError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{self.http}/schema is not what OpenEnv has there: {error}"
            ) from error
        return schema if isinstance(schema, dict) else {}

    async def connect(self) -> ClientConnection:
        """Raises:
        ConnectionError: it is not there.
        """
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        try:
            return await connect(
                self.ws,
                additional_headers=self.headers,
                max_size=_MOST_BYTES,
                open_timeout=_CONNECT_S,
                close_timeout=2.0,
                proxy=None,
            )
        except (OSError, WebSocketException) as error:
            raise ConnectionError(f"no OpenEnv session at {self.ws}: {error}") from error


@dataclass(frozen=True)
class Dealing:
    """How sessions deal with the server; `told` are the errors that the policy is told."""

    server: Server
    form: ActionForm
    reading: Reading
    reset: Mapping[str, Any]
    told: Sequence[str]


class OpenEnvs:
    """A family whose instances are sessions of one server."""

    def __init__(self, dealing: Dealing, sessions: int) -> None:
        self._dealing = dealing
        self.stop: Sequence[str] = ()
        self.tools: Sequence[Mapping[str, Any]] = ()
        self.at_once: int | None = sessions

    async def open(self) -> Environment:
        return OpenEnvSession(self._dealing)

    async def close(self) -> None:
        return


class Refused(Exception):
    """The server answered with an error of this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code, self.message = code, message


class OpenEnvSession:
    """One session, over any number of episodes; it connects again where it must."""

    def __init__(self, dealing: Dealing) -> None:
        self._dealing = dealing
        self._connection: ClientConnection | None = None
        self._last = Turn()

    async def reset(self, task: Task) -> Turn:
        data = {**self._dealing.reset, "seed": task.number()}
        try:
            async with asyncio.timeout(self._dealing.server.timeout_s):
                answer = await self._reset_answer(data)
        except Refused as refused:
            raise BadData(f"the OpenEnv server can't reset with {data}: {refused}") from refused
        self._last = turn_of(answer, self._dealing.reading)
        return self._last

    async def _reset_answer(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """A full server is asked again: sessions that were just closed leave it a little later."""
        wait_s = 0.1
        while True:
            try:
                return await self._ask("reset", data)
            except Refused as refused:
                if refused.code != "CAPACITY_REACHED":
                    raise
                await self.close()
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, 5.0)

    async def step(self, action: str) -> Turn:
        try:
            data = self._dealing.form.data(action)
            async with asyncio.timeout(self._dealing.server.timeout_s):
                answer = await self._ask("step", data)
        except ValueError as error:  # it is no action: the server was not asked
            return self._wrong(str(error))
        except Refused as refused:
            if refused.code not in self._dealing.told:
                raise BadData(f"the OpenEnv server failed in a step: {refused}") from refused
            return self._wrong(refused.message)
        self._last = turn_of(answer, self._dealing.reading)
        return self._last

    def _wrong(self, error: str) -> Turn:
        chat = not isinstance(self._last.observation, str)
        told = [{"role": "user", "content": error}] if chat else error
        return Turn(told, actions=self._last.actions, error=error)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _ask(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises:
        Refused: the server says so. ConnectionError: it went away. BadData: its answer is none.
        """
        from websockets.exceptions import ConnectionClosed, WebSocketException

        try:
            if self._connection is None:
                if kind != "reset":
                    raise TransientFailure("the session with the OpenEnv server is over")
                self._connection = await self._dealing.server.connect()
            # A server that is full says so, and closes, before it is asked.
            with suppress(ConnectionClosed):
                await self._connection.send(json.dumps({"type": kind, "data": data}))
            text = await self._connection.recv()
        except WebSocketException as error:
            self._connection = None
            raise ConnectionError(f"the OpenEnv server went away: {error}") from error
        return _data_in(text)


def _data_in(text: str | bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(text)
        kind, data = answer["type"], answer["data"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(f"the OpenEnv server's answer is no message: {text[:300]!r}") from error
    if kind == "error" and isinstance(data, dict):
        raise Refused(str(data.get("code", "")), _message_of(data))
    if kind != "observation" or not isinstance(data, dict):
        raise BadData(f"the OpenEnv server's answer is no observation: {text[:300]!r}")
    return data


def _message_of(data: Mapping[str, Any]) -> str:
    """With what the server found wrong, where it tells by fields."""
    found = [
        f"{'.'.join(map(str, each.get('loc', ())))}: {each.get('msg', '')}"
        for each in data.get("errors") or ()
        if isinstance(each, dict)
    ]
    return "; ".join([str(data.get("message", "an error")), *found])
