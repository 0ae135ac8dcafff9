"""Bots that play at the same time. With macro actions they share one game server; where they run
a model's code each has its own, since that could flood it."""

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
        self._shared: Game | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def open(self) -> Environment:
        return VoyagerEnvironment(self._playing, self.world)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.stop()
            self._shared = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def world(self) -> World:
        """A new one, for one bot."""
        if self._server is not None:
            host, port = self._server
            number = next(self._numbers)
            others = OthersWorld(host, port, self._below(f"bot{number}"))
            await others.open()
            return others
        if self._playing.code:
            return await self._own_world(await self._started(), alone=True)
        async with self._starting:
            game = await self._shared_game()
        return await self._own_world(game, alone=False)

    async def _own_world(self, game: Game, *, alone: bool) -> World:
        try:
            return OwnWorld(game, await game.open_plot(), alone=alone)
        except BaseException:
            # Whatever it was, also an interruption: nobody else would stop the server.
            if alone:
                await game.stop()
            raise

    async def _shared_game(self) -> Game:
        if self._shared is None or not self._shared.alive:
            if self._shared is not None:
                await self._shared.stop()
            self._shared = await self._started()
        return self._shared

    async def _started(self) -> Game:
        folder = self._below(f"game{next(self._numbers)}")
        folder.mkdir(mode=0o755)
        game = Game(folder)
        try:
            await game.start(self._playing.bot.version)
        except BaseException:  # it took longer than the caller waits, say
            await game.stop()
            raise
        return game

    def _below(self, name: str) -> Path:
        """The path of a socket has at most 107 bytes: TMPDIR may be too deep for that."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tuft-voyager-", dir="/tmp"))
        return self._folder / name
