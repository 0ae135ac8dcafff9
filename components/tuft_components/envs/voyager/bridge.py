"""The bridge to a bot: Voyager's four routes, over HTTP on a socket in a folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tuft_components.envs.voyager.game import listening
from tuft_components.envs.voyager.sandboxed import Sandboxed, failed, start

_SOCKET = "bridge.sock"
_JOIN_S = 60.0
_MOST = 4 << 20
"""Bytes of an answer: more is the model's doing."""

Event = tuple[str, Mapping[str, Any]]
"""As Voyager has them: (onChat | onError | onSave | observe, values)."""


class BridgeFailed(Exception):
    """It took too long, ended, or answered nonsense: a fault of the code that it ran. It is
    not to be used again."""


@dataclass(frozen=True)
class BotSettings:
    """
    Args:
        version: of the game.
        speed: game time to real time, while code runs; 1 on a server that is not ours.
        local: the server is ours: it crafts by itself.
    """

    version: str
    speed: float = 8.0
    local: bool = True
    username: str = "bot"


class Bridge:
    """Its folder holds the socket of the game, `game.sock`, and that of its routes."""

    def __init__(self, process: Sandboxed, folder: Path) -> None:
        self._process = process
        self._folder = folder
        transport = httpx.AsyncHTTPTransport(uds=str(folder / _SOCKET))
        self._http = httpx.AsyncClient(transport=transport, base_url="http://bridge")

    @classmethod
    async def open(cls, folder: Path, settings: BotSettings) -> Bridge:
        (folder / _SOCKET).unlink(missing_ok=True)
        with listening(folder / _SOCKET) as made:
            argument = {
                "socket": "/io/game.sock",
                "fd": made.fileno(),
                "version": settings.version,
                "username": settings.username,
                "speed": settings.speed,
                "local": settings.local,
            }
            process = await start(
                "bridge.js", json.dumps(argument), folder=folder, descriptor=made.fileno()
            )
        return cls(process, folder)

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self, options: Mapping[str, Any]) -> Sequence[Event]:
        """Join, or begin anew.

        Raises:
            BadConfiguration: there can be no sandbox here. TransientFailure: the bot could not join.
        """
        try:
            return await self._events("/start", options, _JOIN_S)
        except BridgeFailed as error:
            said = f"{error} {self._process.tail()}"
            raise failed("the bot could not join the game", said) from error

    async def step(self, code: str, programs: str, timeout_s: float) -> Sequence[Event]:
        """Run the code.

        Raises:
            BridgeFailed: it did not come to an end, or took the bridge with it.
        """
        return await self._events("/step", {"code": code, "programs": programs}, timeout_s)

    async def close(self) -> None:
        await self._http.aclose()
        await self._process.stop()
        (self._folder / _SOCKET).unlink(missing_ok=True)

    async def _events(
        self, route: str, body: Mapping[str, Any], timeout_s: float
    ) -> Sequence[Event]:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._post(route, body)
        except TimeoutError as error:
            raise BridgeFailed(f"it ran longer than {timeout_s:g} s") from error
        except httpx.HTTPError as error:
            said = self._process.tail()
            why = "it used too much memory" if "heap" in said else "it ended the process it ran in"
            raise BridgeFailed(why) from error
        if isinstance(answer, dict):
            raise BridgeFailed(str(answer.get("error", "no events"))[:1000])
        try:
            return [(str(name), dict(values)) for name, values in json.loads(answer)]
        except (TypeError, ValueError) as error:
            raise BridgeFailed("it broke the bridge: no list of events came back") from error

    async def _post(self, route: str, body: Mapping[str, Any]) -> Any:
        async with self._http.stream("POST", route, json=body, timeout=None) as response:
            data = b""
            async for part in response.aiter_bytes():
                data += part
                if len(data) > _MOST:
                    raise BridgeFailed(f"it made an answer of more than {_MOST >> 20} MiB")
        try:
            return json.loads(data)
        except ValueError as error:
            raise BridgeFailed("it broke the bridge: no JSON came back") from error
