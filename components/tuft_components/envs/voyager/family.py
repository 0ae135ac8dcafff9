"""Bots that play at the same time: they share one game server."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuft_components.envs.base import Environment
from tuft_components.envs.voyager.environment import Playing, VoyagerEnvironment
from tuft_components.envs.voyager.game import Game
from tuft_components.envs.voyager.world import OthersWorld, OwnWorld, World


class VoyagerFamily:
    """`server`: host and port of a server that is not ours; None: ours, started when needed, and
    again when it went away."""

    tools: Sequence[Mapping[str, Any]] = ()

    def __init__(self, playing: Playing, at_once: int, server: tuple[str, int] | None) -> None:
        self._playing = playing
        self.at_once: int | None = at_once
        self.stop: Sequence[str] = () if playing.code else ("\n",)
        self._server = server
        self._folder: Path | None = None
        self._game: Game | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def open(self) -> Environment:
        return VoyagerEnvironment(self._playing, self._world)

    async def close(self) -> None:
        if self._game is not None:
            await self._game.stop()
            self._game = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _world(self) -> World:
        if self._server is not None:
            host, port = self._server
            number = next(self._numbers)
            others = OthersWorld(host, port, self._below(f"bot{number}"))
            await others.open()
            return others
        async with self._starting:
            game = await self._running()
        return OwnWorld(game, await game.open_plot())

    async def _running(self) -> Game:
        if self._game is None or not self._game.alive:
            if self._game is not None:
                await self._game.stop()
            folder = self._below(f"game{next(self._numbers)}")
            folder.mkdir(mode=0o755)
            self._game = Game(folder)
            await self._game.start(self._playing.bot.version)
        return self._game

    def _below(self, name: str) -> Path:
        """The path of a socket has at most 107 bytes: TMPDIR may be too deep for that."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tuft-voyager-", dir="/tmp"))
        return self._folder / name
