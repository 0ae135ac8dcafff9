"""BrowserGym's `BrowserEnv`: tasks of our own on local pages, and any registered BrowserGym task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tuft_components.envs.base import EnvironmentFamily
from tuft_components.envs.choose import CHOOSING, maybe_choosing

if TYPE_CHECKING:
    from browsergym.core.env import BrowserEnv

REWARDS = ("binary", "share")


def browser(
    task: str,
    *,
    mode: str = "refs",
    reward: str = "binary",
    browsers: int = 2,
    page_timeout_s: float = 60.0,
    pause_ms: int | None = None,
    actions: Sequence[str] = ("chat", "bid"),
    task_args: Mapping[str, Any] | None = None,
) -> EnvironmentFamily:
    """A task of ours (form, table, settings, shop) or of BrowserGym (`miniwob.click-test`, say).

    Args:
        task: its name; `browsergym/` before one of BrowserGym's may be left out.
        mode: refs (BrowserGym's actions, like `click("12")`), choose or words.
        reward: of our own tasks: binary (1 where all was done as wanted, else 0) or share (of what
            was wanted).
        browsers: at the same time, at most; each has a process of Playwright's beside it.
        page_timeout_s: for each call; one that takes longer hangs, and its browser is ended.
        pause_ms: after each action, before the page is looked at. None: 0 for our own tasks, whose
            pages need none, and 500 for others, as in BrowserGym.
        actions: subsets of BrowserGym's actions, for its tasks only.
        task_args: arguments of a task of BrowserGym.

    Raises:
        ValueError: an argument that can't be.
    """
    from tuft_components.envs.browser.family import Browsers, Setting
    from tuft_components.envs.browser.gym_tasks import own_env, registered_env
    from tuft_components.envs.browser.tasks import TASKS

    if reward not in REWARDS:
        raise ValueError(f"reward is {reward!r}; there are: {', '.join(REWARDS)}")
    if browsers < 1 or page_timeout_s <= 0 or (pause_ms is not None and pause_ms < 0):
        raise ValueError(
            "browsers must be 1 or more, page_timeout_s more than 0, pause_ms not less"
        )
    own = task in TASKS
    pause_s = (0 if own else 500) / 1000 if pause_ms is None else pause_ms / 1000
    make: partial[BrowserEnv]
    if own:
        make = partial(own_env, task, pause_s)
    else:
        name = task.removeprefix("browsergym/")
        if "." not in name and name != "openended":
            raise ValueError(f"no task {task!r}; ours are: {', '.join(TASKS)}")
        make = partial(registered_env, name, pause_s, actions, dict(task_args or {}))
        make()  # tells at once what is wrong; the browser starts with an episode
    setting = Setting(make, own, mode in CHOOSING, own and reward == "share", page_timeout_s)
    return maybe_choosing(mode, ["refs"], lambda: Browsers(setting, browsers))
