"""Instances of BrowserGym's environment, each in a thread with a browser of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from browsergym.core.env import BrowserEnv

from tuft_components.envs.base import Task, Turn
from tuft_components.envs.browser import view
from tuft_components.envs.browser.one_thread import OneThread
from tuft_components.envs.browser.shared_browser import SharedBrowser, kill

T = TypeVar("T")
_ASK = "Action:"
_END_S = 10.0
_LONGEST_ACTION = 2000
_OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND",)


@dataclass(frozen=True)
class Setting:
    """As the arguments of `browser`; pages of `own` tasks reach no host."""

    make: Callable[[], BrowserEnv]
    own: bool
    choose: bool
    share: bool
    timeout_s: float


class Browsers:
    """A family whose instances share nothing: what Playwright hangs or dies of stays with one."""

    stop: Sequence[str] = ("\n",)
    tools: Sequence[Mapping[str, Any]] = ()

    def __init__(self, setting: Setting, browsers: int) -> None:
        self.at_once: int | None = browsers
        self._setting = setting

    async def open(self) -> Player:
        return Player(self._setting)

    async def close(self) -> None:
        return


class Player:
    """An instance. All calls of Playwright's synchronous API come from one thread."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._thread = OneThread()
        self._last: Future[Any] | None = None
        self._browser: SharedBrowser | None = None
        self._env: BrowserEnv | None = None
        self._choices: dict[str, str] = {}
        self._goal = ""

    @property
    def pid(self) -> int | None:
        """Of its browser, once that runs."""
        return self._browser.pid if self._browser is not None else None

    async def reset(self, task: Task) -> Turn:
        number = task.number()
        return await self._call(lambda: self._reset(number))

    async def step(self, action: str) -> Turn:
        return await self._call(lambda: self._step(action))

    async def close(self) -> None:
        """Also while a call waits for a page that is busy for ever: it raises then."""
        if self._browser is not None and self._last is not None and not self._last.done():
            kill(self._browser)
        try:
            await asyncio.wait_for(self._call(self._close), _END_S)
        finally:
            if self._browser is not None:
                kill(self._browser)
            self._thread.end()

    async def _call(self, function: Callable[[], T]) -> T:
        self._last = submitted = self._thread.submit(function)
        waiting: asyncio.Future[T] = asyncio.wrap_future(submitted)
        done, _ = await asyncio.wait([waiting], timeout=self._setting.timeout_s)
        if not done:
            raise TimeoutError(f"the page gave no answer within {self._setting.timeout_s:g} s")
        return waiting.result()

    def _reset(self, number: int) -> Turn:
        if self._browser is None:
            self._browser = SharedBrowser(_OFFLINE if self._setting.own else ())
            self._env = self._setting.make()
        assert self._env is not None
        seen, _ = self._env.reset(seed=number)
        self._goal = str(seen["goal"])
        how = "" if self._setting.choose else f"{view.how(self._env)}\n"
        return self._turn(seen, f"{self._goal}\n{how}", info={"seed": number})

    def _step(self, action: str) -> Turn:
        assert self._env is not None
        lead = "" if action.endswith("\n") or self._setting.choose else "\n"
        code = self._choices.get(action.strip(), action)[:_LONGEST_ACTION]
        seen, reward, done, _, info = self._env.step(code)
        told = {key: value for key, value in info["task_info"].items() if value is not None}
        if done:
            score = told.get("share", 0.0) if self._setting.share else reward
            return Turn(reward=float(score), done=True, info=told)
        error = view.short_error(str(seen["last_action_error"]))
        lead += f"{error}\n" if error else ""
        return self._turn(seen, lead, reward=float(reward), error=error, info=told)

    def _turn(
        self,
        seen: Mapping[str, Any],
        lead: str,
        info: Mapping[str, Any],
        reward: float = 0.0,
        error: str = "",
    ) -> Turn:
        page = view.Shown(seen, self._goal)
        self._choices = page.by_name()
        if self._setting.choose:
            actions = tuple(self._choices)
            return Turn(lead + page.said(), reward, actions=actions, error=error, info=info)
        text = f"{lead}{page.listed()}\n{_ASK}"
        return Turn(text, reward, actions=tuple(self._choices.values()), error=error, info=info)

    def _close(self) -> None:
        """Closing the browser closes its pages; what is left of the task may be anywhere."""
        try:
            if self._env is not None and self._env.task is not None:
                self._env.task.teardown()
        finally:
            if self._browser is not None:
                self._browser.close()
