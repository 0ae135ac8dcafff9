"""The server with AgentGym's routes, the client for it, and servers that go away or talk nonsense."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed: make install-envs")
pytest.importorskip("snowballstemmer", reason="snowballstemmer is not installed: make install-envs")
pytest.importorskip("fastapi", reason="fastapi is not installed: make install-envs")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: make install-envs")

import httpx
import uvicorn
from fastapi import FastAPI

from tests.envs.walks import play
from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, Task, Turn
from tuft_components.envs.webshop import shop
from tuft_components.envs.webshop.server import Visits, application
from tuft_components.errors import BadConfiguration, BadData

TASK = Task("train", 0, 1)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """A real server on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def client(url: str, **args: Any) -> AsyncIterator[Environment]:
    family = make_environment(f"webshop:{url}", args)
    environment = await family.open()
    yield environment
    await environment.close()
    await family.close()


async def test_what_agentgyms_client_does() -> None:
    """The same requests, in the same order, with the same shapes as its WebshopEnvClient."""
    own = shop(products=20)
    transport = httpx.ASGITransport(application(Visits(own)))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        assert (await http.get("/")).json() == "ok"
        number = (await http.post("/create")).json()
        assert isinstance(number, int)
        assert (await http.get("/list_envs")).json() == [number]
        which = {"env_idx": number}
        page, nothing = (await http.post("/reset", json={"session_id": 3, **which})).json()
        goal = own.goals[3]
        assert page == f"WebShop [SEP] Instruction: [SEP] {goal.instruction} [SEP] Search"
        assert nothing is None
        assert (await http.get("/observation", params=which)).json() == page
        said = (await http.get("/instruction_text", params=which)).json()
        assert said == f"Instruction: {goal.instruction}"
        actions = (await http.get("/available_actions", params=which)).json()
        assert actions == {"has_search_bar": True, "clickables": ["search"]}
        state = (await http.get("/state", params=which)).json()
        assert state["url"] == "http://127.0.0.1:3000/3"
        assert "search_input" in state["html"]
        assert isinstance(goal.options, dict)
        wanted = [f"search[{goal.name}]", f"click[{goal.asin.lower()}]"]
        wanted += [f"click[{value}]" for value in goal.options.values()]
        for action in [*wanted, "click[nothing]", "click[buy now]"]:
            answer = (await http.post("/step", json={"action": action, **which})).json()
            assert answer["info"] is None
        assert (answer["reward"], answer["done"]) == (1.0, True)
        assert (await http.post("/close", json=which)).status_code == 200
        assert (await http.get("/list_envs")).json() == []


async def test_what_the_server_refuses_or_lets_go() -> None:
    transport = httpx.ASGITransport(application(Visits(shop(products=20), most=2)))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        first, second = [(await http.post("/create")).json() for _ in range(2)]
        await http.get("/observation", params={"env_idx": first})
        third = (await http.post("/create")).json()
        assert (await http.get("/list_envs")).json() == [first, third]
        gone = await http.post("/step", json={"env_idx": second, "action": "search[x]"})
        assert (gone.status_code, "POST /create makes one" in gone.text) == (404, True)
        beyond = await http.post("/reset", json={"env_idx": first, "session_id": 10**9})
        assert (beyond.status_code, "no goal 1000000000" in beyond.text) == (422, True)
        long = await http.post("/step", json={"env_idx": first, "action": "x" * 5000})
        assert long.status_code == 422
        assert (await http.post("/reset", json={"env_idx": first})).status_code == 200


async def test_play_at_a_server() -> None:
    own = shop(products=20)
    async with serving(application(Visits(own))) as (url, _), client(url, sessions=20) as shopping:
        left: list[str] = []

        def player(turn: Turn) -> str:
            if not left:
                goal = own.goals[turn.info["goal"]]
                assert isinstance(goal.options, dict)
                left.extend([f"search[{goal.name}]", "click[nowhere]", f"click[{goal.asin}]"])
                left.extend(
                    [*(f"click[{value}]" for value in goal.options.values()), "click[buy now]"]
                )
            return left.pop(0)

        for index in range(3):
            left.clear()
            turns = await play(shopping, Task("train", 0, index), player)
            assert 4 <= turns[0].info["goal"] < 20
            assert [bool(turn.error) for turn in turns[:4]] == [False, False, True, False]
            assert "click[back to search]" in turns[1].actions
            assert (turns[-1].reward, turns[-1].done) == (1.0, True)
        again = await shopping.reset(Task("train", 0, 0))
        assert again.info == (await shopping.reset(Task("train", 0, 0))).info
        assert (await shopping.reset(Task("eval", 0, 0))).info["goal"] < 4


async def test_a_server_that_goes_away() -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = serving(application(Visits(shop(products=20))))
        url, _ = await server.__aenter__()
        shopping = await stack.enter_async_context(client(url, sessions=5))
        await shopping.reset(TASK)
        await server.__aexit__(None, None, None)
        with pytest.raises(ConnectionError, match="is away"):
            await shopping.step("search[x]")
        with pytest.raises(ConnectionError, match=f"the WebShop server at {url}/reset is away"):
            await shopping.reset(TASK)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("nonsense", "no AgentGym server"),
        ({"detail": "?"}, "no AgentGym server"),
        (True, "no AgentGym server"),
    ],
)
async def test_a_server_of_another_kind(answer: Any, said: str) -> None:
    app = FastAPI()

    @app.post("/create")
    async def create() -> Any:
        return answer

    async with serving(app) as (url, _), client(url) as shopping:
        with pytest.raises(BadData, match=said):
            await shopping.reset(TASK)


async def test_a_server_with_fewer_sessions_says_so() -> None:
    async with (
        serving(application(Visits(shop(products=2)))) as (url, _),
        client(url, sessions=1000) as shopping,
    ):
        with pytest.raises(BadData, match=r"answers 422 to .*no goal"):
            await shopping.reset(TASK)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("webshop:ftp://x", {}, "give webshop:http://host:port"),
        ("webshop:http://x", {"mode": "choose"}, "there are: text, chat"),
        ("webshop:http://x", {"sessions": 1}, "sessions is 1;"),
        ("webshop:http://x", {"sessions": 10**6}, "sessions is 1000000;"),
        ("webshop:http://x", {"products": 3}, "products"),
    ],
)
def test_arguments_that_can_not_be(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(BadConfiguration, match=said):
        make_environment(name, args)
