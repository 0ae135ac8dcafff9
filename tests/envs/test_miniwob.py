"""MiniWoB++ in a real Chromium."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.envs.browsers import needs, played, runs
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task, Turn
from tuft_components.envs.browser.chromium import PageGone
from tuft_components.envs.miniwob import html_folder
from tuft_components.envs.miniwob.actions import Action, NoAction, parse
from tuft_components.envs.miniwob.family import MiniWob, Player, Setting
from tuft_components.errors import BadConfiguration

installed = needs("miniwob")


def test_actions_are_read_and_others_are_refused() -> None:
    assert parse(" click[3]\n") == Action("click", (3,))
    assert parse('type[4, "a, b]"]') == Action("type", (4,), "a, b]")
    assert parse("press[control+a]") == Action("press", text="Control+a")
    assert parse("drag[1, 2]") == Action("drag", (1, 2))
    wrong = [
        "",
        "3",
        "click",
        "click[x]",
        "click[1, 2]",
        "at[3]",
        "press[F13]",
        "run[1]",
        "click[-1]",
    ]
    for text in wrong:
        with pytest.raises(NoAction):
            parse(text)


class Solver:
    """Plays tasks by what their pages say; one that `errs` does whatever is wrong."""

    def __init__(self, errs: bool = False) -> None:
        self.errs = errs
        self.goal = ""

    def __call__(self, turn: Turn) -> str:
        text = str(turn.observation)
        if "Say click[ref]" in text:
            self.goal, self.typed = text.splitlines()[0], False
        wanted = re.findall(r'"([^"]+)"', self.goal)
        fields = re.findall(r"^\[(\d+)\] (?:input_\w+|textarea).*value=\"\"", text, re.MULTILINE)
        if "enter" in self.goal.lower() and fields and not self.typed:
            self.typed = len(fields) == 1
            said = "wrong" if self.errs else wanted[-len(fields)]
            return f"type[{fields[0]}, {said}]"
        if "Select" in self.goal and not self.typed:
            found = re.search(r"^\[(\d+)\] select .*of: (.*)$", text, re.MULTILINE)
            assert found
            self.typed = True
            option = self.goal.removeprefix("Select ").partition(" from")[0]
            options = found[2].split(", ")
            return f"select[{found[1]}, {next(o for o in options if (o == option) != self.errs)}]"
        tags = "span" if "link" in self.goal else "button"
        buttons = re.findall(rf'^\[(\d+)\] {tags} "([^"]+)"', text, re.MULTILINE)
        targets = wanted if "Click on" in self.goal else ["Submit", "Login"]
        right = not self.errs or "Click on" not in self.goal
        return f"click[{next(ref for ref, name in buttons if (name in targets) == right)}]\n"


SOLVED = ("click-button", "enter-text", "choose-list", "login-user", "click-link")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[MiniWob]:
    """One for all: its start is what takes time."""
    family = MiniWob(setting("click-test"), pages=8)
    yield family
    await family.close()


def setting(task: str, *, choose: bool = False, binary: bool = False) -> Setting:
    return Setting(html_folder() / f"{task}.html", choose, binary, timeout_s=20, pause_s=0)


one_loop = pytest.mark.asyncio(loop_scope="module")


@installed
@one_loop
@pytest.mark.parametrize("name", SOLVED)
async def test_who_reads_wins_and_who_errs_does_not(browser: MiniWob, name: str) -> None:
    instance = Player(browser, setting(name))
    won, said = await played(instance, Task("train", 0, 1), Solver())
    assert won == 1, said
    lost, said = await played(instance, Task("train", 0, 1), Solver(errs=True))
    assert lost <= 0, said
    assert said[-1].done
    await instance.close()


@installed
@one_loop
async def test_what_does_not_parse_changes_nothing(browser: MiniWob) -> None:
    instance = Player(browser, setting("click-button"))
    first = await instance.reset(Task("eval", 0, 4))
    for text in ("", "hello", "click[999]", "select[4, x]", "type[999, x]", "drag[998, 999]"):
        turn = await instance.step(text)
        assert turn.error
        assert not turn.done
        assert turn.actions == first.actions
    await instance.close()


@installed
@one_loop
async def test_choosing(browser: MiniWob) -> None:
    instance = Player(browser, setting("click-test-2", choose=True, binary=True))
    for wanted, reward in (("ONE", 1), ("TWO", 0)):
        first = await instance.reset(Task("train", 0, 0))
        assert first.actions == ("click ONE", "click TWO")
        assert first.observation == "Click button ONE.\n"
        last = await instance.step(f"click {wanted}")
        assert (last.reward, last.done) == (reward, True)
    await instance.close()


@installed
@one_loop
async def test_a_page_that_hangs_and_one_that_crashes_cost_one_episode(browser: MiniWob) -> None:
    other = Player(browser, setting("click-test"))
    await other.reset(Task("train", 0, 0))
    hangs = Player(browser, replace(setting("click-test"), timeout_s=0.5))
    await hangs.reset(Task("train", 0, 0))
    busy = asyncio.ensure_future(hangs.page.evaluate("for (;;) {}"))
    with pytest.raises(TimeoutError, match="no answer"):
        await hangs.step("click[1]")
    await hangs.close()
    with pytest.raises(PageGone):
        await busy
    await hangs.reset(Task("train", 0, 0))
    with pytest.raises(PageGone):
        await hangs.page.call("Page.crash")
    with pytest.raises(PageGone):
        await hangs.step("click[1]")
    again = await hangs.reset(Task("train", 0, 1))  # on another page
    assert again.observation
    assert not (await other.step("nothing")).done
    await hangs.close()
    await other.close()


@installed
def test_wrong_arguments() -> None:
    wrong: list[dict[str, Any]] = [{"mode": "x"}, {"reward": "x"}, {"pages": 0}, {"pause_ms": -1}]
    for args in wrong:
        with pytest.raises(BadConfiguration):
            make_environment("miniwob:click-test", args)
    with pytest.raises(BadConfiguration, match="click-test"):
        make_environment("miniwob:click-tset", {})


@installed
@one_loop
async def test_a_browser_that_is_killed_is_started_anew(browser: MiniWob) -> None:
    players = [Player(browser, setting("click-test")) for _ in range(2)]
    for player in players:
        await player.reset(Task("train", 0, 0))
    killed = browser.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    for player in players:
        with pytest.raises(ConnectionError):
            await player.step("click[1]")
    for player in players:
        assert (await player.reset(Task("train", 0, 0))).actions
        await player.close()
    assert browser.pid not in (None, killed)
    assert not runs(killed)


CHILD = """
import asyncio, os, sys
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task

async def main():
    family = make_environment("miniwob:" + sys.argv[1], {})
    instance = await family.open()
    for index in range(3):
        turn = await instance.reset(Task("train", 0, index))
        print(repr(turn), flush=True)
    print(family.pid, flush=True)
    if sys.argv[2] == "wait":
        await asyncio.sleep(600)
    await family.close()

asyncio.run(main())
"""


def child(task: str, then: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, task, then]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@installed
def test_processes_agree_on_a_task_and_on_order() -> None:
    said = [child("login-user", "end").communicate()[0].splitlines()[:-1] for _ in range(2)]
    assert said[0] == said[1]
    assert len(set(said[0])) == 3


@pytest.mark.slow
@installed
def test_chromium_ends_with_a_process_that_is_killed() -> None:
    with child("click-test", "wait") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        pid = int(lines[-1])
        assert runs(pid)
        process.kill()
    deadline = time.monotonic() + 20
    while runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)
