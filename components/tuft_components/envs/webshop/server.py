"""A server with the routes of AgentGym's WebShop server, so that its clients can play here.

    python -m tuft_components.envs.webshop.server --port 36001

Routes after WooooDyy/AgentGym, agentenv-webshop (MIT), with the /close that its client calls and its server
lacks. It has no users and no passwords: it listens on 127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

from tuft_components.envs.webshop import shop as make_shop
from tuft_components.envs.webshop.goals import weights_of
from tuft_components.envs.webshop.pages import OBSERVATIONS
from tuft_components.envs.webshop.shop import Shop, Visit

MOST = 8000
"""Environments at a time, as AgentGym's; the one that was idle for longest makes room for a new one."""
_LARGEST_ID = 48_950_076
_LONGEST_ACTION = 4096


class Which(BaseModel):
    env_idx: int


class Action(Which):
    action: Annotated[str, Field(max_length=_LONGEST_ACTION)]


class Session(Which):
    session_id: int | None = None


Number = Annotated[int, Query(alias="env_idx")]


class Visits:
    """By number. A visit without a session is to a goal that is drawn by weight."""

    def __init__(self, shop: Shop, most: int = MOST, *, human: bool = False) -> None:
        self._shop, self._most = shop, most
        self._visits: OrderedDict[int, Visit] = OrderedDict()
        self._weights = weights_of(shop.goals, human=human)
        self._random = Random()

    def numbers(self) -> list[int]:
        return list(self._visits)

    def create(self) -> int:
        while len(self._visits) >= self._most:
            self._visits.popitem(last=False)
        number = secrets.randbelow(_LARGEST_ID)
        self._visits[number] = Visit(self._shop, self._drawn())
        return number

    def reset(self, number: int, session: int | None) -> Visit:
        self.get(number)
        try:
            visit = Visit(self._shop, self._drawn() if session is None else session)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        self._visits[number] = visit
        return visit

    def get(self, number: int) -> Visit:
        visit = self._visits.get(number)
        if visit is None:
            raise HTTPException(404, f"no environment {number}; POST /create makes one")
        self._visits.move_to_end(number)
        return visit

    def close(self, number: int) -> None:
        self._visits.pop(number, None)

    def _drawn(self) -> int:
        (goal,) = self._random.choices(range(len(self._weights)), self._weights)
        return goal


def application(visits: Visits, observation: str = "text") -> FastAPI:
    """Steps take well below a millisecond: they run in the event loop, one after the other."""
    app = FastAPI(title="WebShop")

    @app.get("/")
    async def ok() -> str:
        return "ok"

    @app.get("/list_envs")
    async def list_envs() -> list[int]:
        return visits.numbers()

    @app.post("/create")
    async def create() -> int:
        return visits.create()

    @app.post("/reset")
    async def reset(asked: Session) -> list[Any]:
        return [visits.reset(asked.env_idx, asked.session_id).observation(observation), None]

    @app.post("/step")
    async def step(asked: Action) -> dict[str, Any]:
        visit = visits.get(asked.env_idx)
        done = visit.step(asked.action)
        state = visit.observation(observation)
        return {"state": state, "reward": done.reward, "done": done.done, "info": None}

    @app.get("/observation")
    async def observed(number: Number) -> str:
        return visits.get(number).observation(observation)

    @app.get("/available_actions")
    async def available_actions(number: Number) -> dict[str, Any]:
        visit = visits.get(number)
        return {"has_search_bar": visit.has_search_bar, "clickables": visit.clickables}

    @app.get("/instruction_text")
    async def instruction_text(number: Number) -> str:
        return f"Instruction: {visits.get(number).instruction}"

    @app.get("/state")
    async def state(number: Number) -> dict[str, str]:
        visit = visits.get(number)
        return {
            "url": visit.url,
            "html": visit.observation("html"),
            "instruction_text": f"Instruction: {visit.instruction}",
        }

    @app.post("/close")
    async def close(asked: Which) -> bool:
        visits.close(asked.env_idx)
        return True

    return app


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tuft_components.envs.webshop.server",
        description="WebShop on the routes of AgentGym's server.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=36001)
    parser.add_argument("--observation", choices=OBSERVATIONS, default="text")
    parser.add_argument(
        "--env-args",
        type=json.loads,
        default={},
        help="JSON: items, attributes, goals, products, …",
    )
    parser.add_argument("--most", type=int, default=MOST, help="environments at a time")
    given = parser.parse_args(arguments)
    visits = Visits(make_shop(**given.env_args), given.most, human="goals" in given.env_args)
    uvicorn.run(application(visits, given.observation), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
