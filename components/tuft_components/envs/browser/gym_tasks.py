"""BrowserGym's `BrowserEnv`: with our own tasks, and with any that is registered."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import gymnasium
from browsergym.core.action import functions
from browsergym.core.action.highlevel import HighLevelActionSet
from browsergym.core.env import BrowserEnv
from browsergym.core.task import AbstractBrowserTask

from tuft_components.envs.browser.tasks import PAGES, Wanted, script, wanted

# Neither files nor addresses: the tasks are on their pages.
_OWN_ACTIONS = ("click", "fill", "select_option", "press", "clear", "scroll", "go_back")
_KEPT = "JSON.parse(sessionStorage.getItem('result') || 'null')"


class LocalTask(AbstractBrowserTask):  # type: ignore[misc]
    """A task of ours. It is over when the page says what was done."""

    def __init__(self, seed: int, name: str) -> None:
        super().__init__(seed)
        self.wanted: Wanted = wanted(name, seed)
        self.slow_mo = 0

    def setup(self, page: Any) -> tuple[str, dict[str, Any]]:
        page.context.add_init_script(script(self.wanted))
        page.goto((PAGES / self.wanted.page).as_uri())
        return self.wanted.goal, {}

    def validate(self, page: Any, _messages: list[Any]) -> tuple[float, bool, str, dict[str, Any]]:
        result = page.evaluate(_KEPT)
        if result is None:
            return 0.0, False, "", {}
        share = self.wanted.score(result)
        return float(share == 1), True, "", {"share": share, "result": result}


def own_env(name: str, pause_s: float) -> BrowserEnv:
    """With one of our tasks."""
    chosen = [getattr(functions, action) for action in _OWN_ACTIONS]
    actions = HighLevelActionSet(subsets=["custom"], custom_actions=chosen, multiaction=False)
    return BrowserEnv(
        LocalTask,
        task_kwargs={"name": name},
        action_mapping=actions.to_python_code,
        pre_observation_delay=pause_s,
    )


def registered_env(
    task: str, pause_s: float, subsets: Sequence[str], args: dict[str, Any]
) -> BrowserEnv:
    """With the registered task `browsergym/{task}`; the package of its benchmark registers it.

    Raises:
        ValueError: there is none.
    """
    benchmark = task.partition(".")[0]
    if benchmark == "miniwob" and "MINIWOB_URL" not in os.environ:
        from tuft_components.envs.miniwob import html_folder

        os.environ["MINIWOB_URL"] = f"{html_folder().as_uri()}/"
    try:
        if benchmark != "openended":
            import_module(f"browsergym.{benchmark}")
        spec = gymnasium.spec(f"browsergym/{task}")
    except (ImportError, gymnasium.error.Error) as error:
        raise ValueError(
            f"BrowserGym has no task {task!r} ({error}); tasks of a benchmark need its package, "
            "as browsergym-miniwob"
        ) from error
    try:
        actions = HighLevelActionSet(subsets=list(subsets), multiaction=False)
    except ValueError as error:
        raise ValueError(f"actions is {list(subsets)}: {error}") from error
    make: Callable[..., Any] = spec.entry_point
    named = {"task_kwargs": args} if args else {}
    made = make(action_mapping=actions.to_python_code, pre_observation_delay=pause_s, **named)
    assert isinstance(made, BrowserEnv)
    return made
