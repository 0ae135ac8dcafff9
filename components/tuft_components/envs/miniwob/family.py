"""The pages of one browser in which MiniWoB++ episodes are played."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.browser.chromium import Chromium, Page, PageError, PageGone
from tuft_components.envs.miniwob import view
from tuft_components.envs.miniwob.actions import HOW, Action, NoAction, act, parse

_SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
# The page's own limit is 10 s, too short for a model; what plays the episodes keeps the time.
_EPISODE_MS = 1_000_000_000
_MODES = dict(zip(SPLITS, ("train", "test"), strict=True))
_ASK = "Action:"
# Pages in which something was left of the last episode, found by playing all of them.
_FRESH = (
    "book-flight",
    "choose-date",
    "email-inbox",
    "scroll-text",
    "simon-says",
    "stock-market",
    "terminal",
    "use-autocomplete",
    "use-colorwheel",
)
# A page is loaded anew after so many episodes, whatever it collects.
_MOST_EPISODES = 500


@dataclass(frozen=True)
class Setting:
    """As the arguments of `miniwob`."""

    page: Path
    choose: bool
    binary: bool
    timeout_s: float
    pause_s: float


class MiniWob:
    """A family. Its browser starts with the first page, and anew where it died."""

    stop: Sequence[str] = ("\n",)
    tools: Sequence[Mapping[str, Any]] = ()

    def __init__(self, setting: Setting, pages: int) -> None:
        self.at_once: int | None = pages
        self._setting = setting
        self._browser: Chromium | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the browser, once it runs."""
        return self._browser.pid if self._browser is not None else None

    async def open(self) -> Player:
        return Player(self, self._setting)

    async def page(self) -> Page:
        """A new one."""
        async with self._starting:
            if self._browser is not None and not self._browser.alive:
                await self._browser.close()
                self._browser = None
            if self._browser is None:
                self._browser = await Chromium.start()
        page = await self._browser.new_page()
        script = {"source": _SCRIPT}
        await page.call("Page.addScriptToEvaluateOnNewDocument", script)
        return page

    async def close(self) -> None:
        if self._browser is not None:
            await self._browser.close()
            self._browser = None


class Player:
    """One page. An episode goes on in it where the last one left nothing: that is ten times as
    fast as loading it anew."""

    def __init__(self, family: MiniWob, setting: Setting) -> None:
        self._family, self._setting = family, setting
        self._page: Page | None = None
        self._episodes = 0
        self._fresh = setting.page.stem.startswith(_FRESH)
        self._choices: dict[str, Action] = {}
        self._texts: list[str] = []

    @property
    def page(self) -> Page:
        """Raises:
        PageGone: no episode has begun.
        """
        if self._page is None:
            raise PageGone("no episode has begun")
        return self._page

    async def reset(self, task: Task) -> Turn:
        try:
            return await self._begun(task)
        except (PageGone, PageError):  # since the last episode; another is as good
            await self.close()
            return await self._begun(task)

    async def _begun(self, task: Task) -> Turn:
        number = task.number()
        if self._page is None:
            self._page, self._episodes = await self._family.page(), 0
        if self._fresh or self._episodes % _MOST_EPISODES == 0:
            address = {"url": f"{self._setting.page.as_uri()}?seed={number}"}
            await self._page.call("Page.navigate", address, timeout_s=self._setting.timeout_s)
        self._episodes += 1
        arguments = json.dumps([number, _MODES[task.split], _EPISODE_MS])
        seen = await self._evaluate(f"tuft.begin(...{arguments})")
        self._texts = view.typable(seen["utterance"], seen["fields"])
        how = "" if self._setting.choose else f"{HOW}\n"
        first = self._turn(seen, f"{seen['utterance']}\n{how}")
        return replace(first, info={"seed": number})

    async def step(self, action: str) -> Turn:
        setting = self._setting
        # Text goes on where the action ended.
        lead = "" if action.endswith("\n") or setting.choose else "\n"
        try:
            known = self._choices.get(action.strip())
            await act(self.page, known or parse(action), setting.timeout_s)
        except NoAction as error:
            return self._turn(await self._seen(), f"{lead}{error}\n", error)
        if setting.pause_s:
            await asyncio.sleep(setting.pause_s)
        return self._turn(await self._seen(), lead)

    async def _seen(self) -> dict[str, Any]:
        try:
            return await self._evaluate("tuft.seen()")
        except PageError:  # it was asked while another page came
            return await self._evaluate("tuft.seen()")

    def _turn(self, seen: Mapping[str, Any], lead: str, error: object = "") -> Turn:
        if not seen["here"]:
            self._episodes = 0
            left = "the page was left: the task can't be finished"
            return Turn(lead + left, done=True, error=left)
        if seen["done"]:
            raw = float(seen["reward"])
            reward = float(raw == 1.0) if self._setting.binary else raw
            return Turn(reward=reward, done=True, info={"raw": raw, "reason": seen["reason"]})
        items = seen["items"]
        self._choices = view.by_name(items, self._texts)
        if self._setting.choose:
            return Turn(lead + view.said(items), actions=tuple(self._choices), error=str(error))
        actions = view.by_reference(items, self._texts)
        shown = f"{lead}{view.listed(items)}\n{_ASK}"
        return Turn(shown, actions=actions, error=str(error))

    async def _evaluate(self, script: str) -> dict[str, Any]:
        answer = await self.page.evaluate(script, timeout_s=self._setting.timeout_s)
        return dict(answer)

    async def close(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            with suppress(PageGone):  # with its browser
                await page.close()
