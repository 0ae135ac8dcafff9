"""`openenv:URL` and `tuft-env serve`: our client and our server, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("websockets", reason="websockets is not installed: make install-envs")

import httpx
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from tests.envs.walks import messages_of, play
from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, EnvironmentFamily, Task, Turn
from tuft_components.envs.openenv.server import EnvironmentServer
from tuft_components.envs.openenv.wire import Reading, action_form, data_of, turn_of
from tuft_components.errors import BadConfiguration, BadData, TransientFailure

TASK = Task("train", 0, 1)


@asynccontextmanager
async def serving(name: str, **given: Any) -> AsyncIterator[tuple[EnvironmentServer, str]]:
    server = EnvironmentServer(name, make_environment(name, {}), **given)
    listening = await server.start("127.0.0.1", 0)
    port = next(iter(listening.sockets)).getsockname()[1]
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        listening.close()
        await listening.wait_closed()
        await server.close()


async def client(address: str, **args: Any) -> EnvironmentFamily:
    return await asyncio.to_thread(make_environment, f"openenv:http://{address}", args)


async def test_our_client_plays_what_our_server_offers() -> None:
    async with serving("number_guess") as (_, address):
        family = await client(address)
        assert family.stop == ("\n",)
        environment, local = await family.open(), await make_environment("number_guess", {}).open()
        # The number of a task is the seed of the served one.
        same = Task("train", TASK.number(), 0)
        for player in (lambda turn: f" {turn.info['reference']}\n", lambda _: "nonsense"):
            played = await play(environment, TASK, player)
            assert played == await play(local, same, player)
            assert played[-1].done
        assert all("from 1 to 8" in turn.error for turn in played[1:])
        await environment.close()


async def test_messages_tools_and_choices_go_through() -> None:
    async with serving("shopping_list") as (_, address):
        family = await client(address)
        assert [tool["function"]["name"] for tool in family.tools] == ["price", "calculate"]
        environment = await family.open()
        first = await environment.reset(TASK)
        assert [message["role"] for message in messages_of(first)] == ["system", "user"]
        turn = await environment.step('{"name": "price", "arguments": {"item": "moon"}}')
        assert messages_of(turn)[0]["role"] == "tool"
        assert "there is no 'moon'" in turn.error
        await environment.close()
    async with serving("grid") as (_, address):
        environment = await (await client(address, mode="choose")).open()
        assert (await environment.reset(TASK)).actions == ["1", "2", "3", "4"]
        await environment.close()


async def test_the_splits_share_no_task() -> None:
    async with serving("arithmetic") as (_, address):
        environment = await (await client(address)).open()
        tasks = [Task(split, 0, index) for split in ("train", "eval") for index in range(8)]
        shown = [str((await environment.reset(task)).observation) for task in tasks]
        assert not set(shown[:8]) & set(shown[8:])
        assert shown[0] == str((await environment.reset(tasks[0])).observation)
        await environment.close()


async def test_a_full_server_is_waited_for() -> None:
    async with serving("number_guess", sessions=1) as (server, address):
        family = await client(address)
        one, other = await family.open(), await family.open()
        await one.reset(TASK)
        waiting = asyncio.create_task(other.reset(TASK))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        await one.close()
        assert (await waiting).observation
        await other.close()
        family = await client(address, timeout_s=0.3)
        one, other = await family.open(), await family.open()
        await one.reset(TASK)
        with pytest.raises(TimeoutError):
            await other.reset(TASK)
        await one.close()
        assert server.sessions <= 1


async def _raw(address: str, *messages: str) -> list[dict[str, Any]]:
    async with connect(f"ws://{address}/ws", proxy=None) as connection:
        answers = []
        for message in messages:
            await connection.send(message)
            answers.append(json.loads(await connection.recv()))
        return answers


def _step(**data: Any) -> str:
    return json.dumps({"type": "step", "data": data})


def _reset(**data: Any) -> str:
    return json.dumps({"type": "reset", "data": data})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 5000, "INVALID_JSON"),
        ("[]", "VALIDATION_ERROR"),
        ('{"type": "step", "data": 3}', "VALIDATION_ERROR"),
        ('{"type": "dance"}', "UNKNOWN_TYPE"),
        (_reset(seed=-1), "VALIDATION_ERROR"),
        (_reset(seed="x"), "VALIDATION_ERROR"),
        (_reset(split="test"), "VALIDATION_ERROR"),
        (_step(text=3), "VALIDATION_ERROR"),
        (_step(message="3"), "VALIDATION_ERROR"),
    ],
)
async def test_a_wrong_message_is_told_and_the_episode_goes_on(message: str, code: str) -> None:
    async with serving("number_guess") as (_, address):
        begin = _reset(split="train", seed=0, index=3, episode_id="mine")
        first, wrong, state, step = await _raw(
            address, begin, message, '{"type": "state"}', _step(text="3")
        )
        assert first["type"] == "observation"
        assert (wrong["type"], wrong["data"]["code"]) == ("error", code)
        if not message.startswith('{"type": "reset"'):
            assert state == {"type": "state", "data": {"episode_id": "mine", "step_count": 0}}
            assert step["type"] == "observation"


async def test_a_step_needs_an_episode_that_goes_on() -> None:
    async with serving("arithmetic") as (_, address):
        answers = await _raw(address, _step(text="1"), _reset(), _step(text="1"), _step(text="1"))
        assert [each["data"].get("code") for each in answers] == [
            "SESSION_ERROR",
            None,
            None,
            "SESSION_ERROR",
        ]


class Breaking:
    """Raises in the second step of an episode."""

    def reset(self, task: Task) -> Turn:
        self.steps = 0
        return Turn("go", reward=float("nan"))

    def step(self, action: str) -> Turn:
        self.steps += 1
        return Turn(f"step {1 // (2 - self.steps)}")


async def test_an_environment_that_raises_costs_its_episode() -> None:
    async with serving("tests.envs.test_openenv:Breaking") as (_, address):
        answers = await _raw(
            address, _reset(), _step(text=""), _step(text=""), _step(text=""), _reset()
        )
        assert [each["data"].get("code") for each in answers] == [
            None,
            None,
            "EXECUTION_ERROR",
            "SESSION_ERROR",
            None,
        ]
        assert "ZeroDivisionError" in answers[2]["data"]["message"]
        assert answers[0]["data"]["reward"] is None  # NaN is no JSON
        told = await (await client(address)).open()
        await told.reset(TASK)
        await told.step("x")
        assert "ZeroDivisionError" in (await told.step("x")).error
        await told.close()
        failing = await (await client(address, step_errors="fail")).open()
        await failing.reset(TASK)
        await failing.step("x")
        with pytest.raises(BadData, match="failed in a step: ZeroDivisionError"):
            await failing.step("x")
        await failing.close()


async def test_a_silent_session_is_ended() -> None:
    async with serving("number_guess", idle_timeout_s=0.05) as (server, address):
        async with connect(f"ws://{address}/ws", proxy=None) as connection:
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        assert server.sessions == 0


async def test_the_pages() -> None:
    async with serving("number_guess") as (_, address), httpx.AsyncClient(trust_env=False) as http:
        pages = {
            path: (await http.get(f"http://{address}{path}")).json()
            for path in ("/health", "/metadata", "/schema")
        }
        assert pages["/health"] == {"status": "healthy"}
        assert pages["/metadata"]["name"] == "number_guess"
        assert pages["/schema"]["action"]["required"] == ["text"]
        wrong = await http.get(f"http://{address}/reset")
        assert wrong.status_code == 404
        assert "/ws, /health" in wrong.text


# Servers that are not ours, with what they answer to each message.
Answer = Callable[[dict[str, Any]], Awaitable[str | None]]


@asynccontextmanager
async def foreign(answer: Answer) -> AsyncIterator[str]:
    """Without `/schema`; None ends the session."""

    async def session(connection: Any) -> None:
        async for said in connection:
            reply = await answer(json.loads(said))
            if reply is None:
                return
            await connection.send(reply)

    async with serve(session, "127.0.0.1", 0, process_request=_only_sessions) as listening:
        yield f"127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}"


def _only_sessions(connection: Any, request: Any) -> Any:
    return None if request.path == "/ws" else connection.respond(404, "nothing here")


async def opened(address: str, **args: Any) -> Environment:
    return await (await client(address, action_field="message", **args)).open()


def _observed(**data: Any) -> str:
    return json.dumps({"type": "observation", "data": data})


async def test_a_server_that_goes_away_costs_one_episode() -> None:
    async def answer(said: dict[str, Any]) -> str | None:
        return None if said["type"] == "step" else _observed(observation={"x": "go"})

    async with foreign(answer) as address:
        environment = await opened(address)
        assert (await environment.reset(TASK)).observation == "go\nAction:"
        with pytest.raises(ConnectionError, match="the OpenEnv server went away"):
            await environment.step("x")
        with pytest.raises(TransientFailure, match=r"the session .* is over"):
            await environment.step("x")
        assert (await environment.reset(TASK)).observation == "go\nAction:"  # it is there again
        await environment.close()


async def test_a_server_that_is_not_there_is_told_at_once() -> None:
    async with foreign(_observed) as address:  # type: ignore[arg-type]
        environment = await opened(address)
    with pytest.raises(ConnectionError, match="no OpenEnv session at"):
        await environment.reset(TASK)
    with pytest.raises(TransientFailure, match="no OpenEnv server at"):
        await client(address)


async def test_a_server_that_hangs_is_left() -> None:
    async def answer(said: dict[str, Any]) -> str | None:
        await asyncio.sleep(0.5)
        return None

    async with foreign(answer) as address:
        environment = await opened(address, timeout_s=0.05)
        with pytest.raises(TimeoutError):
            await environment.reset(TASK)
        await environment.close()


@pytest.mark.parametrize(
    "said",
    [
        "nonsense",
        "[]",
        '{"type": "observation"}',
        '{"type": "state", "data": {}}',
        _observed(observation=3),
        _observed(observation={}, reward="much"),
        _observed(observation={}, done="no"),
        '{"type": "error", "data": {"code": "FACTORY_ERROR", "message": "broken"}}',
    ],
)
async def test_answers_that_are_none_are_bad_data(said: str) -> None:
    async def answer(_: dict[str, Any]) -> str | None:
        return said

    async with foreign(answer) as address:
        environment = await opened(address)
        with pytest.raises(BadData):
            await environment.reset(TASK)
        await environment.close()


async def test_what_is_sent() -> None:
    asked: list[dict[str, Any]] = []

    async def answer(said: dict[str, Any]) -> str | None:
        asked.append(said)
        return _observed(observation={"a": 1, "b": "two"}, reward=True, done=len(asked) > 1)

    async with foreign(answer) as address:
        environment = await opened(address, reset={"level": 2}, without=["a"])
        turns = await play(environment, TASK, lambda _: "hello")
        await environment.close()
    assert asked == [
        {"type": "reset", "data": {"level": 2, "seed": TASK.number()}},
        {"type": "step", "data": {"message": "hello"}},
    ]
    assert [(turn.observation, turn.reward) for turn in turns] == [("two\nAction:", 1), ("two", 1)]


@pytest.mark.parametrize(
    ("fields", "reading", "text"),
    [
        ({"a": "x", "b": [1, 2], "c": None, "d": ""}, Reading(), "a: x\nb: [1, 2]"),
        ({"hint": "x", "legal_actions": ["1"], "metadata": {}}, Reading(), "x"),
        ({"a": "x", "b": {"c": 1}}, Reading(field="b"), '{"c": 1}'),
        ({"a": "x" * 20}, Reading(most_characters=5), "xxxxx […]"),
        ({"a": "x", "picture": "…"}, Reading(without=["picture"]), "x"),
        ("plain", Reading(), "plain"),
    ],
)
def test_observations_as_text(fields: Any, reading: Reading, text: str) -> None:
    assert turn_of({"observation": fields}, reading).observation == text


def test_a_turn_comes_back_as_it_was() -> None:
    for turn in (
        Turn("hello\n", 0.5, False, ("a", "b"), "wrong", {"x": 1}),
        Turn([{"role": "tool", "content": "3"}], actions=()),
        Turn("", 1.0, True),
    ):
        assert turn_of(json.loads(json.dumps(data_of(turn))), Reading()) == turn


def _fields(**types: str) -> dict[str, Any]:
    return {"properties": {name: {"type": kind} for name, kind in types.items()}}


@pytest.mark.parametrize(
    ("schema", "field", "said", "data"),
    [
        (_fields(message="string", metadata="object"), None, "hi", {"message": "hi"}),
        (_fields(move="integer"), None, " 3\n", {"move": 3}),
        (_fields(code="string", timeout="number"), None, "x", {"code": "x"}),
        ({**_fields(a="string", b="string"), "required": ["b"]}, None, "x", {"b": "x"}),
        (_fields(a="string", b="string"), "a", "x", {"a": "x"}),
        (_fields(a="string", b="integer"), "", '{"a": "x", "b": 1}', {"a": "x", "b": 1}),
        ({}, "message", "x", {"message": "x"}),
    ],
)
def test_actions_from_text(schema: Any, field: str | None, said: str, data: Any) -> None:
    assert action_form(schema, field).data(said) == data


@pytest.mark.parametrize(
    ("schema", "field", "said", "right"),
    [
        (_fields(move="integer"), None, "left", "give a whole number"),
        (_fields(move="integer"), None, "true", "give a whole number"),
        (_fields(move="number"), None, "", "give a number"),
        ({}, "", "[1]", "give a JSON object"),
        ({}, "", "[" * 100_000, "give a JSON object"),
    ],
)
def test_texts_that_are_no_action(schema: Any, field: str | None, said: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"^{right}$"):
        action_form(schema, field).data(said)


async def test_what_can_not_be_made_is_told() -> None:
    with pytest.raises(BadConfiguration, match="give http://HOST:PORT"):
        make_environment("openenv:ftp://x", {})
    with pytest.raises(BadConfiguration, match="variable TUFT_NO_SUCH is not set"):
        make_environment("openenv:http://127.0.0.1:9", {"token_variable": "TUFT_NO_SUCH"})
    with pytest.raises(BadConfiguration, match="sessions and timeout_s must be more"):
        make_environment("openenv:http://127.0.0.1:9", {"sessions": 0})
    async with serving("number_guess") as (_, address):
        with pytest.raises(BadConfiguration, match=r"no field 'move'; they have: text"):
            await client(address, action_field="move")
    with pytest.raises(ValueError, match=r'or "" where .* Fields: a, b'):
        action_form(_fields(a="string", b="string"), None)
