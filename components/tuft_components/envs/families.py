"""A family of environments from a plain class, with methods that may be plain functions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, cast

from tuft_components.envs.base import Environment, EnvironmentFamily, Task, Turn


class FamilyOf:
    """Instances of a class, or of whatever callable makes them.

    The class may have `stop`, `tools` and `at_once`, as `EnvironmentFamily` tells them, and need
    have no `close`.
    """

    def __init__(self, first: Any, make: Callable[[], Any]) -> None:
        """`first` is an instance that is there already; `make` makes further ones.

        Raises:
            TypeError: it has no `reset` or no `step`.
        """
        for method in ("reset", "step"):
            if not callable(getattr(first, method, None)):
                kind = type(first).__name__
                raise TypeError(f"{kind} has no method {method}: an environment has reset and step")
        self._make = make
        self._first: Any = first
        self.stop: Sequence[str] = tuple(getattr(first, "stop", ()))
        self.tools: Sequence[Mapping[str, Any]] = tuple(getattr(first, "tools", ()))
        self.at_once: int | None = getattr(first, "at_once", None)

    async def open(self) -> Environment:
        instance, self._first = self._first or await asyncio.to_thread(self._make), None
        if inspect.iscoroutinefunction(instance.step):
            return cast("Environment", instance if hasattr(instance, "close") else _Kept(instance))
        return _InThread(instance)

    async def close(self) -> None:
        if self._first is not None:
            await _InThread(self._first).close()
            self._first = None


class _Plain(Protocol):
    def reset(self, task: Task) -> Turn: ...
    def step(self, action: str) -> Turn: ...


class _InThread:
    """Calls of one instance come from one thread, which some libraries insist on."""

    def __init__(self, instance: _Plain) -> None:
        self._instance = instance
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="environment")

    async def reset(self, task: Task) -> Turn:
        return cast("Turn", await self._call(self._instance.reset, task))

    async def step(self, action: str) -> Turn:
        return cast("Turn", await self._call(self._instance.step, action))

    async def close(self) -> None:
        close = getattr(self._instance, "close", None)
        try:
            if close is not None:
                await self._call(close)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Also where the plain class has one asynchronous method among the others."""
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._thread, partial(function, *args))
        return await answer if inspect.isawaitable(answer) else answer


class _Kept:
    """An asynchronous instance that has nothing to close."""

    def __init__(self, instance: Any) -> None:
        self.reset, self.step = instance.reset, instance.step

    async def close(self) -> None:
        return


def as_family(made: Any, make: Callable[[], Any]) -> EnvironmentFamily:
    """`made`, where it is a family itself; else the family of it and what `make` makes.

    Raises:
        TypeError: it is neither a family nor an environment.
    """
    if hasattr(made, "open"):
        return cast("EnvironmentFamily", made)
    return FamilyOf(made, make)
