"""The bridge for other clients: Voyager's own, say, whose `VoyagerEnv` speaks to these routes."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

from tuft_components.envs.voyager.bridge import BotSettings, Bridge
from tuft_components.envs.voyager.environment import Playing
from tuft_components.envs.voyager.family import VoyagerFamily
from tuft_components.envs.voyager.tasks import all_tasks, begin
from tuft_components.envs.voyager.world import relay


async def serve(
    task: str, server: tuple[str, int] | None, port: int, ready: Callable[[int], None]
) -> None:
    """One bot at http://127.0.0.1:PORT, until it is told to end. `task`: whose world it is in,
    where there is no `server`. A `port` of 0 takes one that is free; `ready` gets it.

    Raises:
        BadConfiguration: this machine can't run it. TransientFailure: the game did not start.
    """
    kind = all_tasks()[task]
    bot = BotSettings("1.19", 1.0 if server else 8.0, local=server is None)
    family = VoyagerFamily(Playing([kind], True, "", True, 0, bot, lambda _: ()), 1, server)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        world = await family.world()
        await world.reset(begin(kind, random.Random(0)))
        bridge = await Bridge.open(world.folder, bot)
        path = world.folder / "bridge.sock"

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await relay(reader, writer, asyncio.open_unix_connection(path))

        listening = await asyncio.start_server(accept, "127.0.0.1", port)
        ready(listening.sockets[0].getsockname()[1])
        await ended.wait()
        listening.close()
        await bridge.close()
        await world.close()
    finally:
        await family.close()
