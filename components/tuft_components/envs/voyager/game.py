"""The game server: one process with a plot, a small world of its own, for each bot.

It is also the referee. What a bot has, mined, crafted and placed is told by the server, which
allows no more than the rules do; what the bridge says comes from a process that runs the model's
code.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuft_components.envs.voyager.sandboxed import Sandboxed, failed, start
from tuft_components.errors import TransientFailure

_LONGEST_LINE = 1 << 20
_START_S = 60.0
_CALL_S = 30.0


@dataclass(frozen=True)
class Seen:
    """What the referee sees of a bot; numbers by name."""

    inventory: Mapping[str, int]
    placed: Mapping[str, int]
    mined: Mapping[str, int]
    crafted: Mapping[str, int]


class Game:
    """Plots are named by numbers; the bot of one joins at the socket `place(plot)/game.sock`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._plots = itertools.count(1)
        self._process: Sandboxed | None = None
        self._listening: asyncio.Future[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive and self._listening is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, version: str) -> None:
        """Raises:
        BadConfiguration: there can be no sandbox here. TransientFailure: it did not come up.
        """
        ours, its = socket.socketpair()
        argument = json.dumps({"version": version, "fd": its.fileno()})
        try:
            self._process = await start(
                "game.js", argument, folder=self._folder, descriptor=its.fileno(), writable=True
            )
        finally:
            its.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
        try:
            ready = await asyncio.wait_for(reader.readline(), _START_S)
        except TimeoutError:
            ready = b""
        if not ready:
            await self.stop()
            raise failed("the game server did not start", self._process.tail())
        self._listening = asyncio.ensure_future(self._listen(reader))

    async def open_plot(self) -> int:
        plot = next(self._plots)
        self.place(plot).mkdir(mode=0o755)
        await self._call("open", plot=plot, socket=f"/io/{plot}/game.sock")
        return plot

    def place(self, plot: int) -> Path:
        return self._folder / str(plot)

    async def reset(
        self, plot: int, blocks: list[tuple[int, int, int, str]], inventory: Mapping[str, int]
    ) -> None:
        """The world as `blocks` say, the bot back at its place, with `inventory`."""
        await self._call(
            "reset", plot=plot, blocks=blocks, inventory=inventory, position=[0.5, 5, 0.5]
        )

    async def look(self, plot: int) -> Seen:
        seen = await self._call("look", plot=plot)
        return Seen(**{name: dict(seen[name]) for name in Seen.__dataclass_fields__})

    async def close_plot(self, plot: int) -> None:
        await self._call("close", plot=plot)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
            self._listening = None
        if self._writer is not None:
            self._writer.close()
        self._gone()

    async def _call(self, command: str, **arguments: Any) -> Any:
        if not self.alive or self._writer is None:
            raise TransientFailure("the game server is away")
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "command": command, **arguments})
        self._writer.write(line.encode() + b"\n")
        try:
            return await asyncio.wait_for(answer, _CALL_S)
        except TimeoutError as error:
            raise TransientFailure(f"the game server did not answer in {_CALL_S:g} s") from error
        finally:
            self._waiting.pop(number, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._answered(json.loads(line))
        except OSError:
            pass  # it was killed
        self._listening = None
        self._gone()

    def _answered(self, answer: Mapping[str, Any]) -> None:
        waiting = self._waiting.get(answer["id"])
        if waiting is None or waiting.done():
            return
        if "error" in answer:
            waiting.set_exception(ValueError(answer["error"]))
        else:
            waiting.set_result(answer["result"])

    def _gone(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(TransientFailure("the game server went away"))


def listening(path: Path) -> socket.socket:
    """A socket for a process to be started with."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(os.fspath(path))
        made.listen()
    except OSError:
        made.close()
        raise
    return made
