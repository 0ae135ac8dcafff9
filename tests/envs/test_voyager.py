"""Voyager: tasks that are solved by macro actions, one game server for many bots, and no leaks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.envs.voyager_places import alive, below, needs_game, playing
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.voyager import voyager
from tuft_components.envs.voyager.curriculum import Progress, check_graph, next_tasks
from tuft_components.envs.voyager.forks import machines, no_forks
from tuft_components.envs.voyager.game import Seen
from tuft_components.envs.voyager.installing import modules
from tuft_components.envs.voyager.macros import code_of
from tuft_components.envs.voyager.skills import Skill, SkillLibrary
from tuft_components.envs.voyager.tasks import all_tasks, begin, task_from
from tuft_components.errors import BadConfiguration, BadData, TransientFailure

TRAIN = Task("train", 0, 0)


def seen(**counts: dict[str, int]) -> Seen:
    return Seen(**{**{name: {} for name in Seen.__dataclass_fields__}, **counts})


def test_tasks_are_worlds_that_follow_from_their_numbers() -> None:
    kind = all_tasks()["cobblestone"]
    worlds = [begin(kind, Task("train", 0, index).random()) for index in range(30)]
    assert worlds == [begin(kind, Task("train", 0, index).random()) for index in range(30)]
    assert len({world.wood for world in worlds}) == 4
    for world in worlds:
        places = [place for *place, _ in world.blocks]
        assert len({tuple(place) for place in places}) == len(places) == 5
        assert all(max(abs(x), abs(z)) >= 2 for x, _, z, _ in world.blocks)
        assert "{wood}" not in str(world)


def test_progress_is_the_last_step_that_is_reached() -> None:
    begun = begin(all_tasks()["crafting_table"], TRAIN.random())
    wood = begun.wood
    assert begun.progress(seen()) == 0
    assert begun.progress(seen(mined={f"{wood}_log": 1})) == pytest.approx(1 / 3)
    assert begun.progress(seen(crafted={f"{wood}_planks": 2})) == pytest.approx(2 / 3)
    assert begun.progress(seen(inventory={"crafting_table": 1})) == 1
    assert begun.progress(seen(placed={"crafting_table": 1})) == 0


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"say": "x", "steps": []}, "has no steps"),
        ({"say": "x", "steps": [{"health": {"x": 1}}]}, r"not \['health'\]"),
        ({"say": "x", "goal": {}}, "unexpected keyword"),
    ],
)
def test_a_task_of_ones_own_is_checked(values: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        task_from("mine", values)


def test_the_curriculum_goes_on_where_tasks_are_solved(tmp_path: Path) -> None:
    tasks = all_tasks()
    check_graph(tasks)
    progress = Progress()
    assert next_tasks(tasks, progress, 3) == ["mine_log"]
    progress.record({"mine_log": [True, True, True, False]})
    assert next_tasks(tasks, progress) == ["planks"]
    progress.record({"planks": [True]})
    assert next_tasks(tasks, progress, 2) == ["sticks", "crafting_table"]
    progress.record({"sticks": [True, False], "crafting_table": []})
    assert next_tasks(tasks, progress, 2) == ["crafting_table", "sticks"]
    uri = str(tmp_path / "progress.json")
    progress.save(uri)
    assert Progress.load(uri) == progress
    Path(uri).write_text('{"solved": 3}')
    with pytest.raises(BadData, match="is no progress of a curriculum"):
        Progress.load(uri)
    everything = Progress(list(tasks))
    assert next_tasks(tasks, everything) == ["iron_ingot"]


def test_every_task_can_be_reached_one_after_another() -> None:
    tasks, progress = all_tasks(), Progress()
    for _ in tasks:
        (name,) = next_tasks(tasks, progress)
        assert name not in progress.solved
        progress.record({name: [True]})
    assert set(progress.solved) == set(tasks)


def test_a_graph_with_a_circle_is_refused() -> None:
    step = [{"inventory": {"x": 1}}]
    one = task_from("one", {"say": "", "steps": step, "needs": ["other"]})
    other = task_from("other", {"say": "", "steps": step, "needs": ["one"]})
    with pytest.raises(ValueError, match="wait for each other: one, other"):
        check_graph({"one": one, "other": other})
    with pytest.raises(ValueError, match="task one needs other"):
        check_graph({"one": one})


def test_skills_are_found_by_their_words(tmp_path: Path) -> None:
    skills = [
        Skill("makePlanks", "", "makes planks of any wood", "planks", [1]),
        Skill("craftTable", "", "crafts a crafting table", "crafting_table", [1]),
        Skill("digStone", "", "digs stone until there is enough cobblestone", "cobblestone", [1]),
    ]
    library = SkillLibrary(skills)
    uri = str(tmp_path / "skills.json")
    library.save(uri)
    for each in (library, SkillLibrary.load(uri)):
        assert [skill.name for skill in each.find("get 1 crafting_table")] == ["craftTable"]
        assert each.find("Planks")[0].name == "makePlanks"
        assert each.find("iron") == []
    Path(uri).write_text("[]")
    with pytest.raises(BadData, match="is no skill library"):
        SkillLibrary.load(uri)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("mine(oak_log)", "await mineBlock(bot, 'oak_log', 1)"),
        (" craft(stick, 2)\nmine(dirt)", "await craftItem(bot, 'stick', 2)"),
        ("mine(dirt, 999)", "await mineBlock(bot, 'dirt', 16)"),
        ("fly(home)", None),
        ("mine('); process.exit(); ('", None),
        ("", None),
    ],
)
def test_macros_are_code(action: str, code: str | None) -> None:
    assert code_of(action) == code


@pytest.mark.parametrize(
    ("task", "args", "wrong"),
    [
        ("fly", {}, "no task 'fly'; there are: mine_log, planks"),
        ("planks", {"mode": "telepathy"}, "there are: code, macro, choose"),
        ("planks", {"server": "localhost"}, "give HOST:PORT"),
        ("planks", {"at_once": 0}, "at_once is 1 to 64"),
        ("curriculum", {"next_count": 0}, "next_count is 1 or more"),
    ],
)
def test_wrong_arguments_are_refused(task: str, args: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        voyager(task, **args)  # type: ignore[arg-type]


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUFT_ENVS_HOME", str(tmp_path))
    with pytest.raises(BadConfiguration, match=r"envs\.voyager install \(or make install-envs\)"):
        modules()
    (tmp_path / "voyager" / "node_modules" / "flying-squid").mkdir(parents=True)
    (tmp_path / "voyager" / "package-lock.json").write_text("{}")
    with pytest.raises(BadConfiguration, match="of another version"):
        modules()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadConfiguration, match="sandbox, for which the program bwrap is missing"):
        voyager("planks")


@pytest.mark.parametrize("machine", machines())
def test_the_filter_is_made_of_whole_instructions(machine: str) -> None:
    assert len(no_forks(machine)) % 8 == 0


@needs_game
async def test_a_machine_without_namespaces_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text(
        "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with playing("planks") as (_, environment):
        with pytest.raises(
            BadConfiguration, match="can't make one here: bwrap: setting up uid map"
        ):
            await environment.reset(TRAIN)


@needs_game
async def test_a_task_is_played_by_choosing() -> None:
    family = make_environment("voyager:planks", {"mode": "choose"})
    environment = await family.open()
    try:
        turn = await environment.reset(TRAIN)
        assert str(turn.observation) == (
            "Task: get 4 jungle_planks.\nYou have: nothing. Near: jungle_log.\n"
            "1. craft(jungle_planks)\n2. craft(stick)\n3. mine(dirt)\n4. mine(jungle_log)\nAction:"
        )
        wrong = await environment.step(" 1\n")
        assert "to craft jungle_planks you need 1 more" in wrong.error
        half = await environment.step(" 4\n")
        assert (half.reward, half.done, half.error) == (0.5, False, "")
        assert str(half.observation).startswith("You have: 1 jungle_log.\n1. ")
        again = await environment.step(" 4\n")
        assert again.reward == 0
        done = await environment.step(" 1\n")
        assert (done.reward, done.done) == (0.5, True)
        assert done.info == {
            "task": "planks",
            "solved": True,
            "progress": 1.0,
            "inventory": {"jungle_log": 1, "jungle_planks": 4},
        }
    finally:
        await environment.close()
        await family.close()


@needs_game
@pytest.mark.slow
@pytest.mark.parametrize("name", all_tasks())
async def test_every_task_is_solved_by_its_way(name: str) -> None:
    async with playing(name, mode="macro") as (_, environment):
        for split in ("train", "eval"):
            for index in range(4):
                task = Task(split, 1, index)
                turn = await environment.reset(task)
                total = 0.0
                for action in begin(all_tasks()[name], task.random()).kind.way:
                    assert action in turn.actions
                    assert not turn.done
                    turn = await environment.step(action)
                    assert not turn.error
                    total += turn.reward
                assert turn.done
                assert total == pytest.approx(1)


@needs_game
@pytest.mark.slow
async def test_the_curriculum_is_played(tmp_path: Path) -> None:
    uri = str(tmp_path / "progress.json")
    Progress(["mine_log", "planks"]).save(uri)
    args = {"mode": "macro", "progress": uri, "next_count": 2}
    async with playing("curriculum", **args) as (_, environment):
        names = [
            (await environment.reset(Task("train", 0, index))).info["task"] for index in range(4)
        ]
        assert names == ["sticks", "crafting_table"] * 2


@needs_game
@pytest.mark.slow
async def test_bots_share_a_server_and_not_a_world() -> None:
    async with playing("mine_log", mode="macro", at_once=3) as (family, first):
        others = [await family.open() for _ in range(2)]
        bots = [first, *others]
        task = Task("train", 0, 3)
        turns = await asyncio.gather(*(bot.reset(task) for bot in bots))
        assert len({str(turn.observation) for turn in turns}) == 1
        way = begin(all_tasks()["mine_log"], task.random()).kind.way
        turns = await asyncio.gather(*(bot.step(way[0]) for bot in bots))
        assert [turn.reward for turn in turns] == [1, 1, 1]
        servers = [pid for pid in below(os.getpid()) if "/app/js/game.js" in _words(pid)]
        assert len([pid for pid in servers if "bwrap" not in _words(pid)]) == 1
        for other in others:
            await other.close()


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@needs_game
@pytest.mark.slow
async def test_a_server_that_is_killed_costs_the_episode_and_comes_again() -> None:
    async with playing("planks", mode="macro") as (family, environment):
        await environment.reset(TRAIN)
        await environment.step("mine(jungle_log)")
        (server,) = [
            pid
            for pid in below(os.getpid())
            if "/app/js/game.js" in _words(pid) and "bwrap" not in _words(pid)
        ]
        os.kill(server, signal.SIGKILL)
        with pytest.raises(TransientFailure, match="game server"):
            await environment.step("craft(jungle_planks)")
        await environment.close()
        another = await family.open()
        await another.reset(TRAIN)
        assert (await another.step("mine(jungle_log)")).reward == 0.5
        await another.close()
    assert not [pid for pid in below(os.getpid()) if "/app/js/" in _words(pid)]


_PLAY = """
import asyncio, json, sys, time
from tuft_components.envs.base import Task
from tuft_components.envs.voyager import voyager

async def main():
    family = voyager("crafting_table", mode="macro")
    environment = await family.open()
    told = []
    for index in range(3):
        turn = await environment.reset(Task("eval", 7, index))
        for action in ["", "mine(dirt)", turn.actions[-1], turn.actions[1], "place(dirt)"]:
            told.append([str(turn.observation), list(turn.actions), turn.reward, turn.error])
            turn = await environment.step(action)
    print(json.dumps(told), flush=True)
    if sys.argv[1] == "stay":
        time.sleep(600)
    await environment.close()
    await family.close()

asyncio.run(main())
"""


def _start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _PLAY, how], stdout=subprocess.PIPE, text=True)


@needs_game
@pytest.mark.slow
def test_a_task_goes_the_same_way_in_every_process() -> None:
    said: Sequence[str] = [_start("go").communicate(timeout=100)[0] for _ in range(2)]
    assert said[0] == said[1]
    assert len(json.loads(said[0])) == 15


@needs_game
@pytest.mark.slow
def test_no_process_outlives_one_that_was_killed() -> None:
    process = _start("stay")
    assert process.stdout is not None
    process.stdout.readline()
    children = below(process.pid)
    assert len(children) >= 4
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in children if alive(pid)]
    process.stdout.close()
