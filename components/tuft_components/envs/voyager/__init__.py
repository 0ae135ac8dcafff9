"""Minecraft: a bot gets what it is told to, by JavaScript or by macro actions.

    voyager:planks        one of our tasks (tasks.json)
    voyager:curriculum    the next tasks, by what was solved before

The bot is Mineflayer, behind a bridge with the four routes and the events of Voyager (Wang et al.,
2023, arXiv:2305.16291). It plays on a server of ours, one that starts in a second and holds a small
world, or on a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuft_components.envs.base import EnvironmentFamily
from tuft_components.envs.choose import maybe_choosing
from tuft_components.envs.voyager.bridge import BotSettings
from tuft_components.envs.voyager.curriculum import Progress, check_graph, next_tasks
from tuft_components.envs.voyager.environment import Playing
from tuft_components.envs.voyager.family import VoyagerFamily
from tuft_components.envs.voyager.sandboxed import check
from tuft_components.envs.voyager.skills import Skill, SkillLibrary
from tuft_components.envs.voyager.tasks import TaskKind, all_tasks, task_from

MODES = ("code", "macro")
CURRICULUM = "curriculum"
_ASK = {"code": "Code:", "macro": "Action:"}


def voyager(
    task: str,
    *,
    mode: str = "code",
    at_once: int = 4,
    shaped: bool = True,
    step_timeout_s: float = 20.0,
    speed: float = 8.0,
    version: str = "1.19",
    server: str = "",
    skills: str = "",
    progress: str = "",
    next_count: int = 1,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
) -> EnvironmentFamily:
    """
    Args:
        task: its name, or `curriculum`.
        mode: code (JavaScript), macro (`mine(oak_log)`), choose (a number) or words.
        at_once: bots; each takes 150 MB.
        shaped: reward each step of the task; else only its goal.
        step_timeout_s: for the code of one action.
        speed: how many times faster the game runs, while an action does, than the clock.
        version: of the game.
        server: HOST:PORT of a Minecraft server, instead of ours.
        skills: URI of a skill library, from which code may call what fits the task.
        progress: URI of a curriculum's progress; without one it begins at its beginning.
        next_count: how many tasks of the curriculum to play, in turn.
        tasks: further tasks, or others of the same names, as in tasks.json.

    Raises:
        ValueError: an argument that can't be. BadConfiguration: this machine can't run it.
        BadData: `skills` or `progress` is not there, or something else.
    """
    known = {**all_tasks(), **{name: task_from(name, row) for name, row in (tasks or {}).items()}}
    check_graph(known)
    kinds = _kinds(task, known, progress, next_count)
    if not 1 <= at_once <= 64 or not 1 <= speed <= 20 or step_timeout_s <= 0:
        raise ValueError("at_once is 1 to 64, speed 1 to 20, and step_timeout_s more than 0")
    address = server_address(server)
    bot = BotSettings(version, 1.0 if address else speed, local=address is None)
    found = _finder(skills)

    def make() -> VoyagerFamily:
        check()
        code, ask = mode == "code", _ASK.get(mode, "")
        playing = Playing(kinds, code, ask, shaped, step_timeout_s, bot, found)
        return VoyagerFamily(playing, at_once, address)

    return maybe_choosing(mode, MODES, make)


def _kinds(
    task: str, known: Mapping[str, TaskKind], progress: str, count: int
) -> Sequence[TaskKind]:
    if task == CURRICULUM:
        if count < 1:
            raise ValueError("next_count is 1 or more")
        so_far = Progress.load(progress) if progress else Progress()
        return [known[name] for name in next_tasks(known, so_far, count)]
    if task not in known:
        raise ValueError(f"no task {task!r}; there are: {', '.join([*known, CURRICULUM])}")
    return [known[task]]


def server_address(server: str) -> tuple[str, int] | None:
    """Raises:
    ValueError: it is not HOST:PORT.
    """
    if not server:
        return None
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"server is {server!r}: give HOST:PORT")
    return host, int(port)


def _finder(uri: str) -> Callable[[str], Sequence[Skill]]:
    if not uri:
        return lambda words: ()  # noqa: ARG005
    return SkillLibrary.load(uri).find
