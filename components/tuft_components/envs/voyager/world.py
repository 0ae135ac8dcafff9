"""Where a bot plays: a plot of our own server, or a Minecraft server that somebody else runs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tuft_components.envs.voyager.bridge import Event
from tuft_components.envs.voyager.game import Game, Seen
from tuft_components.envs.voyager.tasks import Begun
from tuft_components.errors import TransientFailure


class World(Protocol):
    """Of one bot. `folder` has the socket through which it joins."""

    folder: Path

    @property
    def alive(self) -> bool: ...
    async def reset(self, begun: Begun) -> None: ...
    def options(self, begun: Begun) -> Mapping[str, Any]: ...
    async def look(self, events: Sequence[Event]) -> Seen: ...
    async def close(self) -> None: ...


class OwnWorld:
    """A plot. The server puts the world back, and is the referee. `alone`: it is for this bot
    only, and ends with the world."""

    def __init__(self, game: Game, plot: int, *, alone: bool) -> None:
        self._game, self._plot, self._alone = game, plot, alone
        self.folder = game.place(plot)

    @property
    def alive(self) -> bool:
        return self._game.alive

    async def reset(self, begun: Begun) -> None:
        await self._game.reset(self._plot, list(begun.blocks), begun.kind.have)

    def options(self, begun: Begun) -> Mapping[str, Any]:
        del begun  # the server gives what there is
        return {}

    async def look(self, events: Sequence[Event]) -> Seen:
        del events  # they come from the process that runs the model's code
        return await self._game.look(self._plot)

    async def close(self) -> None:
        if self._alone:
            await self._game.stop()
        elif self._game.alive:
            await self._game.close_plot(self._plot)


class OthersWorld:
    """A server by host and port. The bot still has no network: its one socket leads there.

    There is no referee: what the bridge tells is believed, which code that cheats can forge. The
    world is not put back, but for the bot's inventory, for which it must be an operator.
    """

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self._host, self._port = host, port
        self.folder = folder
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._done: dict[str, dict[str, int]] = {}
        self._inventory: dict[str, int] = {}

    @property
    def alive(self) -> bool:
        return True

    async def open(self) -> None:
        self.folder.mkdir(mode=0o755)
        path = self.folder / "game.sock"
        self._server = await asyncio.start_unix_server(self._relay, path)

    async def reset(self, begun: Begun) -> None:
        del begun
        self._done = {"mined": {}, "placed": {}, "crafted": {}}
        try:
            _, writer = await asyncio.open_connection(self._host, self._port)
        except OSError as error:
            raise TransientFailure(
                f"no Minecraft server at {self._host}:{self._port}: {error}"
            ) from error
        writer.close()

    def options(self, begun: Begun) -> Mapping[str, Any]:
        return {"inventory": dict(begun.kind.have)}

    async def look(self, events: Sequence[Event]) -> Seen:
        for name, values in events:
            thing, _, what = str(values.get(name, "")).rpartition("_")
            if name == "onSave" and what in self._done:
                self._done[what][thing] = self._done[what].get(thing, 0) + 1
        if events:
            has = events[-1][1].get("inventory", {})
            self._inventory = {name: int(count) for name, count in has.items()}
        return Seen(inventory=self._inventory, **self._done)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            await relay(reader, writer, asyncio.open_connection(self._host, self._port))
        finally:
            self._relays.discard(task)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connecting: Awaitable[Streams]
) -> None:
    """Both ways, until both are at their end."""
    try:
        there, back = await connecting
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
    except OSError:
        pass  # either end went away; the other is told by its own end
    finally:
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        with contextlib.suppress(OSError):
            writer.close()
