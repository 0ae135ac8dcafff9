"""WebShop at a running AgentGym server, by its routes (WooooDyy/AgentGym, agentenv-webshop; MIT).

    webshop:http://127.0.0.1:36001

Tasks are the server's sessions: session n is its goal n. The server does not tell how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

import httpx

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.webshop.environment import (
    INTRODUCTION,
    action_in,
    introduced,
    no_such_action,
)
from tuft_components.errors import BadData

_LONGEST_ACTION = 1000
_MOST_SESSIONS = 100_000
_TOLD = 300  # characters of an answer that an error shows


class AgentGymShop:
    """One of the server's environments, created at the first `reset`."""

    def __init__(
        self,
        url: str,
        *,
        sessions: int = 500,
        timeout_s: float = 60.0,
        introduction: str = INTRODUCTION,
    ) -> None:
        """The first fifth of the server's first `sessions` sessions evaluates, the rest trains.

        Raises:
            ValueError: an argument that can't be.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no URL of a server; give webshop:http://host:port")
        if not 2 <= sessions <= _MOST_SESSIONS:
            raise ValueError(f"sessions is {sessions}; it must be 2 to {_MOST_SESSIONS}")
        self._url, self._sessions, self._introduction = url.rstrip("/"), sessions, introduction
        self._client = httpx.AsyncClient(timeout=timeout_s, trust_env=False)
        self._env_idx: int | None = None
        self._info: Mapping[str, Any] = {}

    async def reset(self, task: Task) -> Turn:
        session = _session(task, self._sessions)
        if self._env_idx is None:
            self._env_idx = _checked(await self._call("POST", "create", {}), int, "create")
        answer = await self._call(
            "POST", "reset", {"env_idx": self._env_idx, "session_id": session}
        )
        page = _checked(answer[0] if isinstance(answer, list) and answer else answer, str, "reset")
        self._info = {"goal": session}
        return Turn(introduced(page, self._introduction), info=self._info)

    async def step(self, action: str) -> Turn:
        said = action_in(action[:_LONGEST_ACTION])
        buttons = await self._buttons()
        if said.startswith("click[") and said[6:-1].lower() not in buttons:
            error = no_such_action(said, buttons)
            return Turn(error, actions=_clicks(buttons), error=error, info=self._info)
        answer = await self._call("POST", "step", {"env_idx": self._env_idx, "action": said})
        said_of_it = _checked(answer, dict, "step")
        page = _checked(said_of_it.get("state"), str, "step")
        reward = float(_checked(said_of_it.get("reward"), int | float, "step"))
        if said_of_it.get("done") is True:
            return Turn(page, reward=reward, done=True, info=self._info)
        return Turn(page, reward=reward, actions=_clicks(await self._buttons()), info=self._info)

    async def close(self) -> None:
        """AgentGym's own server keeps its environments; ours lets go of them."""
        try:
            if self._env_idx is not None:
                await self._client.post(f"{self._url}/close", json={"env_idx": self._env_idx})
        except httpx.HTTPError:
            pass  # it is gone, and with it what was to be closed
        finally:
            await self._client.aclose()

    async def _buttons(self) -> Sequence[str]:
        """Empty on the search page."""
        answer = await self._call("GET", "available_actions", {"env_idx": self._env_idx})
        known = _checked(answer, dict, "available_actions")
        if known.get("has_search_bar"):
            return ()
        return [str(each) for each in _checked(known.get("clickables"), list, "available_actions")]

    async def _call(self, method: str, route: str, values: dict[str, Any]) -> Any:
        """Raises:
        ConnectionError: the server is away. BadData: it refused, or answered no JSON.
        """
        where = f"{self._url}/{route}"
        try:
            if method == "GET":
                answer = await self._client.get(where, params=values)
            else:
                answer = await self._client.post(where, json=values)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise ConnectionError(f"the WebShop server at {where} is away: {what}") from error
        if answer.status_code in (502, 503, 504):
            raise ConnectionError(f"the WebShop server at {where} answers {answer.status_code}")
        if answer.status_code != 200:
            raise BadData(
                f"the WebShop server at {where} answers {answer.status_code} to {values}: "
                f"{answer.text[:_TOLD]}"
            )
        try:
            return answer.json()
        except ValueError as error:
            raise BadData(f"{where} answers no JSON: {answer.text[:_TOLD]!r}") from error


def _session(task: Task, sessions: int) -> int:
    if task.split not in SPLITS:
        raise ValueError(f"no split {task.split!r}; there are: {', '.join(SPLITS)}")
    ordered = _ordered(sessions, task.split, task.seed)
    return ordered[task.index % len(ordered)]


@lru_cache(maxsize=16)
def _ordered(sessions: int, split: str, seed: int) -> Sequence[int]:
    held_out = max(1, sessions // 5)
    numbers = list(range(held_out) if split == "eval" else range(held_out, sessions))
    Random(f"webshop/{seed}").shuffle(numbers)
    return numbers


def _clicks(buttons: Sequence[str]) -> list[str]:
    return [f"click[{button}]" for button in buttons]


def _checked(value: Any, kind: Any, route: str) -> Any:
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise BadData(
        f"the WebShop server's /{route} answers {str(value)[:_TOLD]!r}: no AgentGym server?"
    )
