"""`tuft-env serve NAME`: offer an environment on the OpenEnv protocol.

Each WebSocket at `/ws` is a session with an instance of its own. `{"seed": n}` of a reset is a
task of the split train where n is even, and of eval where it is odd, as `Task.number` makes them;
`split` and `index` may be given beside it, and are then a task as a rollout has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tuft_components.envs.base import SPLITS, Environment, EnvironmentFamily, Task, Turn
from tuft_components.envs.instances import Instances
from tuft_components.envs.openenv.wire import OURS, TEXT, data_of
from tuft_components.user_code import described

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

_log = logging.getLogger(__name__)
_MOST_BYTES = 1024 * 1024


class Refusal(Exception):
    """Answered with this error; the session goes on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EnvironmentServer:
    """Serves one family to several sessions at once."""

    def __init__(
        self,
        name: str,
        family: EnvironmentFamily,
        *,
        sessions: int = 8,
        call_timeout_s: float = 120.0,
        idle_timeout_s: float = 3600.0,
    ) -> None:
        """`sessions` at once, at most; one that is silent for `idle_timeout_s` is ended."""
        self._name, self._family = name, family
        self._instances = Instances(family, call_timeout_s)
        self._most = min(sessions, family.at_once or sessions)
        self._idle_timeout_s = idle_timeout_s
        self.sessions = 0

    async def start(self, host: str, port: int) -> Server:
        """Listening; the caller closes it, and then `close`s this."""
        from websockets.asyncio.server import serve

        return await serve(
            self._session, host, port, process_request=self._page, max_size=_MOST_BYTES
        )

    async def close(self) -> None:
        await self._instances.close()

    def _page(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0].rstrip("/")
        if path == "/ws":
            return None
        pages = {"/health": {"status": "healthy"}, "/schema": self.schema()}
        pages["/metadata"] = {"name": self._name, "description": f"{self._name}, served by TuFT"}
        if path not in pages:
            there = ", ".join(["/ws", *pages])
            text = json.dumps({"detail": f"there is no {path or '/'}; there are: {there}"})
            response = connection.respond(HTTPStatus.NOT_FOUND, text)
        else:
            response = connection.respond(HTTPStatus.OK, json.dumps(pages[path]))
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    def schema(self) -> dict[str, Any]:
        text: dict[str, Any] = {"type": "string"}
        texts = {"type": "array", "items": text}
        messages = {"type": "array", "items": {"type": "object"}}
        observed = {TEXT: text, "messages": messages, "actions": texts, "error": text}
        state = {"episode_id": text, "step_count": {"type": "integer"}}
        ours = {"stop": list(self._family.stop), "tools": list(self._family.tools)}
        action = {"type": "object", "properties": {TEXT: text}, "required": [TEXT]}
        return {
            "action": {**action, "additionalProperties": False, OURS: ours},
            "observation": {"type": "object", "properties": observed},
            "state": {"type": "object", "properties": state},
        }

    async def _session(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        session = _Session(self._instances)
        self.sessions += 1
        try:
            if self.sessions > self._most:
                text = f"all {self._most} sessions are taken"
                await connection.send(_error("CAPACITY_REACHED", text))
                return
            while True:
                async with asyncio.timeout(self._idle_timeout_s):
                    said = await connection.recv()
                answer = await session.answer(said)
                if answer is None:
                    return
                await connection.send(answer)
        except (ConnectionClosed, TimeoutError):
            return  # the client went away, or is silent: so ends a session
        finally:
            self.sessions -= 1
            await session.close()


class _Session:
    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._instance: Environment | None = None
        self._turn = Turn(done=True)
        self._episode, self._steps = "", 0

    async def answer(self, said: str | bytes) -> str | None:
        """What is sent back; None: the client says goodbye."""
        try:
            try:
                message = json.loads(said)
            except (ValueError, RecursionError) as error:
                raise Refusal("INVALID_JSON", f"Invalid JSON: {error}") from error
            if not isinstance(message, dict) or not isinstance(message.get("data", {}), dict):
                raise Refusal("VALIDATION_ERROR", 'a message is {"type": …, "data": {…}}')
            kind, data = message.get("type"), message.get("data", {})
            if kind == "close":
                return None
            if kind == "state":
                state = {"episode_id": self._episode, "step_count": self._steps}
                return json.dumps({"type": "state", "data": state})
            if kind not in ("reset", "step"):
                raise Refusal("UNKNOWN_TYPE", f"Unknown message type: {kind}")
            turn = await (self._reset(data) if kind == "reset" else self._step(data))
            return json.dumps({"type": "observation", "data": data_of(turn)})
        except Refusal as refusal:
            return _error(refusal.code, str(refusal))
        except Exception as error:  # noqa: BLE001  # whatever an environment raises: it is told
            _log.exception("the environment raised:")
            await self.close()
            return _error("EXECUTION_ERROR", described(error))

    async def _reset(self, data: Mapping[str, Any]) -> Turn:
        task = _task(data)
        self._turn = Turn(done=True)
        if self._instance is None:
            self._instance = await self._instances.take()
        try:
            turn = await self._instances.bounded(self._instance.reset(task))
        except ValueError as error:
            raise Refusal("VALIDATION_ERROR", str(error)) from error
        self._turn, self._steps = turn, 0
        self._episode = str(data.get("episode_id") or uuid.uuid4())
        return turn

    async def _step(self, data: Mapping[str, Any]) -> Turn:
        text = data.get(TEXT)
        if not isinstance(text, str) or set(data) - {TEXT, "metadata"}:
            raise Refusal("VALIDATION_ERROR", f'an action is {{"{TEXT}": "…"}}')
        if self._instance is None or self._turn.done:
            raise Refusal("SESSION_ERROR", "no episode is going on: reset first")
        self._turn = await self._instances.bounded(self._instance.step(text))
        self._steps += 1
        return self._turn

    async def close(self) -> None:
        instance, self._instance = self._instance, None
        self._turn = Turn(done=True)
        if instance is not None:
            await self._instances.drop(instance)


def _task(data: Mapping[str, Any]) -> Task:
    """Raises:
    Refusal: it is none.
    """
    seed, index, split = data.get("seed"), data.get("index", 0), data.get("split")
    if seed is None:
        seed = secrets.randbits(30) << 1  # any task of the split train
    for name, number in (("seed", seed), ("index", index)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise Refusal(
                "VALIDATION_ERROR", f"{name} is {number!r}: give a whole number from 0 on"
            )
    if split is None:
        split = SPLITS[seed % 2]
    if not isinstance(split, str):
        raise Refusal("VALIDATION_ERROR", f"split is {split!r}: give one of {', '.join(SPLITS)}")
    return Task(split, seed, index)


def _error(code: str, message: str) -> str:
    return json.dumps({"type": "error", "data": {"message": message, "code": code}})
