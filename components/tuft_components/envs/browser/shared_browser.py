"""BrowserGym's environments in a Chromium of the system, one for all episodes of a thread.

BrowserGym launches two browsers for each episode, its own builds of them, shows its chat in one,
takes a picture at each step, and keeps Playwright's one object for the process, although that must
stay in its thread. In a thread of ours it finds these things replaced; elsewhere it is as it was.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import browsergym.core.env as gym_env
import numpy as np
from browsergym.core.chat import Chat
from playwright.sync_api import sync_playwright

from tuft_components.envs.browser.chromium import chromium_program

_ours = threading.local()


class SharedBrowser:
    """Playwright, and its browser once one is wanted; made and used in one thread."""

    def __init__(self, flags: Sequence[str]) -> None:
        _replace()
        self._flags = list(flags)
        self._playwright = sync_playwright().start()
        self.pid: int | None = None
        self._browser: Any = None
        self.selectors = self._playwright.selectors
        self.chromium = self  # BrowserGym says `playwright.chromium.launch`
        _ours.playwright = self

    def launch(self, **arguments: Any) -> _Kept:
        """The browser, launched the first time."""
        if self._browser is None:
            mine = {**arguments, "executable_path": chromium_program(), "headless": True}
            mine["slow_mo"] = 0  # for people who watch
            mine["args"] = [*arguments.get("args", []), *self._flags]
            self._browser = self._playwright.chromium.launch(**mine)
            session = self._browser.new_browser_cdp_session()
            processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
            self.pid = next(each["id"] for each in processes if each["type"] == "browser")
            session.detach()
        return _Kept(self._browser)

    def close(self) -> None:
        _ours.playwright = None
        if self._browser is not None:
            self._browser.close()
        self._playwright.stop()


def kill(browser: SharedBrowser) -> None:
    """From another thread: ends a call that waits for a page which is busy for ever."""
    if browser.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(browser.pid, signal.SIGKILL)


class _Kept:
    """A browser that an episode may think closed: its context is closed, and that is enough."""

    def __init__(self, browser: Any) -> None:
        self.new_context = browser.new_context

    def close(self) -> None:
        return


class _SilentChat(Chat):  # type: ignore[misc]
    """The messages, without a window to show them in."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.recording_start_time = None

    def add_message(self, role: str, msg: str) -> None:
        if role != "info":
            self.messages.append({"role": role, "timestamp": time.time(), "message": msg})

    def wait_for_user_message(self) -> None:
        raise RuntimeError("nobody is there to answer")

    def close(self) -> None:
        return


def _here() -> SharedBrowser | None:
    return getattr(_ours, "playwright", None)


def _chat(*args: Any, **named: Any) -> Any:
    return (_SilentChat if _here() else _before["Chat"])(*args, **named)


_before: dict[str, Callable[..., Any]] = {}


def _replace() -> None:
    """Once for the process; what was there goes on in threads that are not ours."""
    if _before:
        return
    for name in ("_get_global_playwright", "Chat", "extract_screenshot"):
        _before[name] = getattr(gym_env, name)
    blank = np.zeros((1, 1, 3), dtype=np.uint8)
    gym_env._get_global_playwright = lambda: _here() or _before["_get_global_playwright"]()
    gym_env.Chat = _chat
    gym_env.extract_screenshot = lambda page: (
        blank if _here() else _before["extract_screenshot"](page)
    )
