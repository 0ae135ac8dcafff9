"""Voyager on a server that is not ours, and our bridge for clients that are not ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.envs.voyager_places import below, needs_game, playing
from tuft_components.envs.base import Task
from tuft_components.envs.voyager.installing import modules
from tuft_components.errors import TransientFailure

pytestmark = [needs_game, pytest.mark.slow]


@contextmanager
def said_port(command: list[str], marker: str, folder: Path | None = None) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    try:
        line = ""
        while marker not in line:
            line = process.stdout.readline()
            assert line, "it ended"
        yield int(line.rpartition(" ")[2])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


@contextmanager
def other_server(folder: Path) -> Iterator[int]:
    (folder / "node_modules").symlink_to(modules())
    script = folder / "server.js"
    script.write_text((Path(__file__).parent / "voyager_server.js").read_text())
    with said_port(["node", str(script)], "PORT", folder) as port:
        yield port


async def test_a_bot_plays_on_a_server_of_others(tmp_path: Path) -> None:
    dirt = {
        "say": "get 2 dirt",
        "have": {"stick": 3},
        "steps": [{"inventory": {"dirt": 2}}, {"placed": {"dirt": 1}}],
    }
    with other_server(tmp_path) as port:
        args = {"mode": "macro", "server": f"127.0.0.1:{port}", "tasks": {"dirt": dirt}}
        async with playing("dirt", **args) as (_, environment):
            for _ in range(2):
                turn = await environment.reset(Task("train", 0, 0))
                assert "You have: 3 stick." in str(turn.observation)
                turn = await environment.step("mine(grass_block, 2)")
                assert turn.info["inventory"] == {"stick": 3, "dirt": 2}
                assert turn.reward == 0.5
                turn = await environment.step("place(dirt)")
                assert (turn.reward, turn.done) == (0.5, True)


async def test_a_server_that_is_not_there_is_told() -> None:
    async with playing("planks", server="127.0.0.1:9") as (_, environment):
        with pytest.raises(TransientFailure, match=r"no Minecraft server at 127\.0\.0\.1:9"):
            await environment.reset(Task("train", 0, 0))


def test_other_clients_speak_to_the_bridge() -> None:
    command = [sys.executable, "-m", "tuft_components.envs.voyager", "bridge", "--port", "0"]
    with (
        said_port(command, "Server started on port") as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        (events,) = [json.loads(client.post("/start", json={"reset": "hard"}).json())]
        name, values = events[-1]
        assert name == "observe"
        assert values["inventory"] == {"wooden_pickaxe": 1}
        assert set(values) == {"voxels", "status", "inventory", "nearbyChests", "blockRecords"}
        step = {
            "code": "await mine(bot)",
            "programs": "async function mine(bot) {"
            "await mineBlock(bot, 'stone', 2); bot.chat('mined') }",
        }
        events = json.loads(client.post("/step", json=step).json())
        assert [name for name, _ in events] == ["onSave", "onChat", "observe"]
        assert events[0][1]["onSave"] == "stone_mined"
        assert events[-1][1]["inventory"] == {"wooden_pickaxe": 1, "cobblestone": 2}
        assert client.post("/pause").json() == {"message": "Unpaused"}
        assert client.post("/pause").json() == {"message": "Paused"}
        assert client.post("/fly").status_code == 404
        assert client.post("/stop").json() == {"message": "Bot stopped"}
        assert client.post("/step", json=step).status_code == 500
    assert not below(os.getpid())
