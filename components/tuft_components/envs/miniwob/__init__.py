"""MiniWoB++ (Farama): small tasks on web pages, played in a headless Chromium."""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from pathlib import Path

from tuft_components.envs.base import EnvironmentFamily
from tuft_components.envs.choose import CHOOSING, maybe_choosing
from tuft_components.envs.miniwob.family import MiniWob, Setting

REWARDS = ("raw", "binary")


def miniwob(
    task: str,
    *,
    mode: str = "refs",
    reward: str = "raw",
    pages: int = 8,
    page_timeout_s: float = 20.0,
    pause_ms: int = 0,
) -> EnvironmentFamily:
    """A MiniWoB++ task: `click-button`, say.

    Args:
        task: the name of its page, without `.html`.
        mode: refs (elements have numbers, actions are texts like `click[3]`), choose or words.
        reward: raw (what the page gives, -1 to 1, whatever the time) or binary (1 where that is 1,
            else 0).
        pages: that may be open at the same time; all are of one browser.
        page_timeout_s: for each call of the page; one that takes longer hangs.
        pause_ms: to wait after each action, for tasks that let time pass.

    Raises:
        ValueError: an argument that can't be.
    """
    folder = html_folder()
    known = task_names(folder)
    if task not in known:
        near = difflib.get_close_matches(task, known, 3) or ["click-test", "click-button"]
        raise ValueError(f"MiniWoB++ has no task {task!r}; near it are: {', '.join(near)}")
    if reward not in REWARDS:
        raise ValueError(f"reward is {reward!r}; there are: {', '.join(REWARDS)}")
    if pages < 1 or page_timeout_s <= 0 or not 0 <= pause_ms <= 60_000:
        raise ValueError(
            "pages must be 1 or more, page_timeout_s more than 0, and pause_ms 0 to 60000"
        )
    setting = Setting(
        page=folder / f"{task}.html",
        choose=mode in CHOOSING,
        binary=reward == "binary",
        timeout_s=page_timeout_s,
        pause_s=pause_ms / 1000,
    )
    return maybe_choosing(mode, ["refs"], lambda: MiniWob(setting, pages))


def html_folder() -> Path:
    """Of the package `miniwob`, which is not imported: it would start with Selenium.

    Raises:
        ValueError: the package has none.
    """
    spec = find_spec("miniwob")
    for place in (spec and spec.submodule_search_locations) or []:
        folder = Path(place, "html", "miniwob")
        if folder.is_dir():
            return folder
    raise ValueError("the package miniwob is not installed, or comes without its pages")


def task_names(folder: Path) -> list[str]:
    """All but the flight tasks, which are no single pages."""
    return sorted(path.stem for path in folder.glob("*.html"))
