"""Instances of an environment, used for one episode after another, and dropped when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from tuft_components.envs.base import Environment, EnvironmentFamily

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Instances:
    """No more are open at once than the family allows; each call is bounded in time."""

    def __init__(self, family: EnvironmentFamily, call_timeout_s: float) -> None:
        self._family = family
        self._timeout_s = call_timeout_s
        self._room = asyncio.Semaphore(family.at_once) if family.at_once else None
        self._idle: list[Environment] = []

    async def take(self) -> Environment:
        """An instance to play an episode in, then to `give` back or to `drop`.

        Raises:
            What the family raises. TimeoutError: it took too long.
        """
        if self._room is not None:
            await self._room.acquire()
        try:
            return self._idle.pop() if self._idle else await self.bounded(self._family.open())
        except BaseException:
            # Whatever it was, also an interruption: the next one must find room.
            self._leave()
            raise

    def give(self, instance: Environment) -> None:
        """It goes on with another episode."""
        self._idle.append(instance)
        self._leave()

    async def drop(self, instance: Environment) -> None:
        """It failed, or was left in the middle of an episode."""
        try:
            await self._closed(instance)
        finally:
            self._leave()

    async def bounded(self, call: Awaitable[T]) -> T:
        """Raises:
        TimeoutError: it took longer than a call may.
        """
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except TimeoutError as error:
            if str(error):  # the environment's own
                raise
            raise TimeoutError(f"no answer within {self._timeout_s:g} s") from error

    async def close(self) -> None:
        """All that are idle, and what they shared."""
        await asyncio.gather(*map(self._closed, self._idle))
        self._idle.clear()
        await self.bounded(self._family.close())

    async def _closed(self, instance: Environment) -> None:
        """One that failed may fail at this too: that is told, and changes nothing."""
        try:
            await self.bounded(instance.close())
        except Exception:  # noqa: BLE001  # whatever an environment raises
            _log.warning("an instance of the environment could not be closed", exc_info=True)

    def _leave(self) -> None:
        if self._room is not None:
            self._room.release()
