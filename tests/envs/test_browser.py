"""Tasks on pages, through BrowserGym in a real Chromium."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from tests.envs.browsers import children, choose, needs, played, playing, runs
from tests.envs.walks import walk, walk_elsewhere
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task, Turn
from tuft_components.envs.browser.tasks import TASKS, wanted
from tuft_components.errors import BadConfiguration

installed = needs("browser")


@pytest.mark.parametrize("name", TASKS)
def test_tasks_follow_from_the_seed_and_only_what_is_wanted_scores(name: str) -> None:
    several = [wanted(name, seed) for seed in range(20)]
    assert several == [wanted(name, seed) for seed in range(20)]
    assert len({task.goal for task in several}) > 10 or name == "table"
    for task in several:
        assert task.score(task.result) == 1
        assert task.score({}) == 0
        for key in task.result:
            assert task.score({**task.result, key: "other"}) == 1 - 1 / len(task.result)


class Solver:
    """Chooses what the goal says, step by step; one that `errs` goes wrong in one of them."""

    def __init__(self, name: str, errs: bool = False) -> None:
        self.name, self.errs = name, errs
        self.plan: Iterator[str] | None = None

    def __call__(self, turn: Turn) -> str:
        if self.plan is None:
            text = str(turn.observation)
            patterns = getattr(self, f"_{self.name}")(text.splitlines()[0], text)
            self.plan = iter(patterns)
        return choose(turn, next(self.plan))

    def _form(self, goal: str, text: str) -> Iterator[str]:
        name, mail = re.findall(r'"([^"]+)"', goal)
        yield rf'fill Name with "{mail if self.errs else name}"'
        yield f'fill E-mail with "{mail}"'
        yield f"select {self._found('country', goal)}"
        yield f"click {self._found('plan', goal)}"
        if "with newsletter" in goal:
            yield "click Newsletter"
        yield "click Send"

    def _found(self, what: str, goal: str) -> str:
        found = re.search(rf"{what} (\w+)", goal)
        assert found
        return found[1]

    def _table(self, goal: str, text: str) -> Iterator[str]:
        rows = re.findall(r"^(\w+ \w+) (\w+) (\w+) (\d+)$", text, re.MULTILINE)
        if "oldest" in goal:
            right = max(rows, key=lambda row: int(row[3]))
        else:
            right = next(row for row in rows if row[1] in goal and row[2] in goal)
        other = next(row for row in rows if row != right)
        yield f"Pick {(other if self.errs else right)[0]}"

    def _settings(self, goal: str, text: str) -> Iterator[str]:
        for name in re.findall(r"turn (?:on|off) ([A-Z][a-z]+(?: [a-z]+)?)", goal, re.IGNORECASE):
            yield f"click (?:.x. )?{name}$"
        if self.errs:
            yield "click"
        yield "click Save"

    def _shop(self, goal: str, text: str) -> Iterator[str]:
        found = re.search(r"one (\w+) (\w+) \((\w+)\)", goal)
        assert found
        yield f"click {found[3]}"
        yield f"click {found[2]},"
        yield f"select {'(?!.*' + found[1] + ')' if self.errs else '(?:.x. )?' + found[1]}"
        yield "click Add"
        yield "click Order"


async def wins_and_loses(name: str, tasks: int) -> None:
    async with playing(f"browser:{name}", mode="choose") as (_, instance):
        for index in range(tasks):
            for errs in (False, True):
                reward, said = await played(instance, Task("train", 0, index), Solver(name, errs))
                assert reward == (not errs), (errs, said)
                assert said[-1].done
                assert said[-1].info["share"] < 1 or not errs


@pytest.mark.slow
@installed
@pytest.mark.parametrize("name", TASKS)
async def test_who_does_what_is_wanted_wins_and_who_errs_does_not(name: str) -> None:
    await wins_and_loses(name, tasks=2)


@pytest.mark.slow
@installed
def test_the_same_in_another_process() -> None:
    for mode, actions in (("refs", ['click("zz")', "nothing"]), ("words", ["nothing"])):
        args, task = {"mode": mode}, Task("train", 0, 3)
        here = walk("browser:table", args, task, actions)
        assert here == walk_elsewhere("browser:table", args, task, actions)


@pytest.mark.slow
@installed
async def test_bids_nonsense_and_what_is_not_allowed() -> None:
    async with playing("browser:table", reward="share") as (_, instance):
        first = await instance.reset(Task("train", 0, 0))
        assert len(first.actions) == 6
        refused = ("", "hello", 'click("zz")', 'goto("file:///etc/passwd")', "import os", "1/0")
        for text in refused:
            turn = await instance.step(text)
            assert turn.error, text
            assert not turn.done
            assert "root:" not in str(turn.observation)
            assert turn.actions == first.actions
        assert (await instance.step(first.actions[0])).done


@pytest.mark.slow
@installed
async def test_a_registered_task() -> None:
    async with playing("browser:browsergym/miniwob.click-test", pause_ms=50) as (_, instance):
        first = await instance.reset(Task("train", 0, 0))
        (action,) = first.actions
        assert action.startswith("click(")
        last = await instance.step(action)
        assert (last.reward, last.done) == (1, True)


@pytest.mark.slow
@installed
async def test_a_page_that_hangs_and_a_browser_that_dies_leave_nothing_behind() -> None:
    family = make_environment("browser:settings", {"page_timeout_s": 60.0})
    hangs: Any = await family.open()
    dies: Any = await family.open()
    for instance in (hangs, dies):
        await instance.reset(Task("train", 0, 0))
    trees = {instance: children(instance.pid) for instance in (hangs, dies)}
    assert all(len(tree) > 3 for tree in trees.values())

    os.kill(dies.pid, signal.SIGKILL)
    with pytest.raises(Exception, match=r"(?i)closed"):
        await dies.step('click("8")')
    later = "setTimeout(() => { for (;;) {} }, 0)"
    await hangs._call(lambda: hangs._env.page.evaluate(later))
    hangs._setting = replace(hangs._setting, timeout_s=2.0)
    with pytest.raises(TimeoutError, match="no answer"):
        await hangs.step('click("8")')
    for instance in (hangs, dies):
        with suppress(Exception):  # of a connection that is gone
            await instance.close()
    await gone(*trees.values())
    other = await family.open()
    assert (await other.reset(Task("train", 0, 0))).actions
    await other.close()
    await family.close()


async def gone(*trees: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(runs(pid) for tree in trees for pid in tree):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


@installed
def test_wrong_arguments() -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("table", {"reward": "x"}),
        ("table", {"mode": "x"}),
        ("table", {"browsers": 0}),
        ("tabel", {}),
        ("miniwob.click-tset", {}),
        ("nobench.task", {}),
        ("miniwob.click-test", {"actions": ["x"]}),
    ]
    for name, args in wrong:
        with pytest.raises(BadConfiguration):
            make_environment(f"browser:{name}", args)
