"""One bot that plays tasks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.voyager.bridge import BotSettings, Bridge, BridgeFailed, Event
from tuft_components.envs.voyager.game import Seen
from tuft_components.envs.voyager.macros import USAGE, code_of
from tuft_components.envs.voyager.skills import Skill
from tuft_components.envs.voyager.tasks import Begun, TaskKind, begin
from tuft_components.envs.voyager.world import World

_GUIDE = """You play Minecraft by writing JavaScript for Mineflayer. There are `bot`, `mcData` and \
`Vec3`, and to await: mineBlock(bot, name, count), craftItem(bot, name, count), \
placeItem(bot, name, position), smeltItem(bot, name, fuel, count), \
exploreUntil(bot, direction, seconds, found)."""
_FENCED = re.compile(r"```(?:javascript|js)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_LONGEST_CODE = 20_000
_LONGEST_TOLD = 600
_GO_ON = {"keep": True}
"""For a bot that joins again in the middle of an episode."""
_NAMES = {"onError": "Error", "onChat": "Chat"}
"""Events that a model is told of, and under which name."""


@dataclass(frozen=True)
class Playing:
    """What all bots of a family share.

    Args:
        kinds: tasks; the number of a task says which, in turn.
        code: actions are JavaScript; else macro actions.
        ask: ends what is said.
        shaped: steps of the task are rewarded; else only its goal.
        step_timeout_s: for the code of an action.
    """

    kinds: Sequence[TaskKind]
    code: bool
    ask: str
    shaped: bool
    step_timeout_s: float
    bot: BotSettings
    skills: Callable[[str], Sequence[Skill]]


class VoyagerEnvironment:
    """A new world is made where the game server went away, and a new bridge where the one there
    is ran a model's code: that may have left anything behind."""

    def __init__(self, playing: Playing, make_world: Callable[[], Awaitable[World]]) -> None:
        self._playing = playing
        self._make_world = make_world
        self._world: World | None = None
        self._bridge: Bridge | None = None
        self._used = False
        self._task: Begun | None = None
        self._skills: Sequence[Skill] = ()
        self._best = 0.0

    async def reset(self, task: Task) -> Turn:
        if task.split not in SPLITS:
            raise ValueError(f"no split {task.split!r}; there are: {', '.join(SPLITS)}")
        kinds = self._playing.kinds
        self._task = begun = begin(kinds[task.index % len(kinds)], task.random())
        if self._world is None or not self._world.alive:
            await self.close()
            self._world = await self._make_world()
        if self._used and self._playing.code:
            await self._drop_bridge()
        await self._world.reset(begun)
        await self._begin(self._world.options(begun))
        self._best = 0.0
        self._skills = self._playing.skills(begun.kind.say) if self._playing.code else ()
        return Turn(self._first(begun), actions=self._actions(), info=self._info(None))

    async def step(self, action: str) -> Turn:
        assert self._world is not None
        code = self._code(action)
        if code is None:
            wrong = USAGE if not self._playing.code else f"code of 1 to {_LONGEST_CODE} characters"
            return Turn(
                self._said(f"{_lead(action)}Not understood: {wrong}."),
                actions=self._actions(),
                error=f"not an action: {wrong}",
                info=self._info(None),
            )
        events, error = await self._run(code)
        seen = await self._world.look(events)
        return self._turn(_lead(action), seen, events, error)

    async def close(self) -> None:
        await self._drop_bridge()
        if self._world is not None:
            world, self._world = self._world, None
            await world.close()

    async def _begin(self, options: Mapping[str, Any]) -> None:
        if self._bridge is not None and self._bridge.alive:
            await self._bridge.start(options)
        else:
            await self._joined(options)

    def _code(self, action: str) -> str | None:
        if not self._playing.code:
            return code_of(action)
        fenced = _FENCED.search(action)
        code = fenced[1] if fenced else action
        return code if code.strip() and len(code) <= _LONGEST_CODE else None

    async def _run(self, code: str) -> tuple[Sequence[Event], str]:
        """The events, and what was wrong."""
        programs = "\n".join(skill.code for skill in self._skills)
        bridge = await self._joined(_GO_ON)
        self._used = True
        try:
            events = await bridge.step(code, programs, self._playing.step_timeout_s)
        except BridgeFailed as failed:
            await self._drop_bridge()
            return [], f"your code was stopped: {failed}"
        errors = [str(values[name]) for name, values in events if name == "onError" in values]
        return events, errors[0] if errors else ""

    async def _joined(self, options: Mapping[str, Any]) -> Bridge:
        """The bridge; where there is none, a new one, that begins with `options`."""
        assert self._world is not None
        if self._bridge is None or not self._bridge.alive:
            await self._drop_bridge()
            self._bridge = await Bridge.open(self._world.folder, self._playing.bot)
            await self._bridge.start(options)
        return self._bridge

    async def _drop_bridge(self) -> None:
        self._used = False
        if self._bridge is not None:
            bridge, self._bridge = self._bridge, None
            await bridge.close()

    def _turn(self, lead: str, seen: Seen, events: Sequence[Event], error: str) -> Turn:
        assert self._task is not None
        progress = self._task.progress(seen)
        solved = progress == 1.0
        worth = progress if self._playing.shaped else float(solved)
        reward = max(0.0, worth - self._best)
        self._best = max(self._best, worth)
        told = [f"{_NAMES[name]}: {text}" for name, text in _told(events, error)]
        told.append(f"You have: {_listed(seen.inventory)}.")
        return Turn(
            "" if solved else self._said(lead + "\n".join(told)),
            reward=reward,
            done=solved,
            actions=self._actions(),
            error=error,
            info=self._info(seen),
        )

    def _first(self, begun: Begun) -> str:
        kind = begun.kind
        near = ", ".join(sorted({name for *_, name in begun.blocks})) or "nothing"
        lines = [f"Task: {kind.say}.", f"You have: {_listed(kind.have)}. Near: {near}."]
        if self._playing.code:
            lines.insert(0, _GUIDE)
            lines += [f"Skill {each.name}(bot): {each.description}" for each in self._skills]
        return self._said("\n".join(lines))

    def _said(self, text: str) -> str:
        return f"{text}\n{self._playing.ask}" if self._playing.ask else text

    def _actions(self) -> Sequence[str]:
        """By their letters: the way must not be read from the order."""
        if self._playing.code or self._task is None:
            return ()
        return sorted({*self._task.kind.way, *self._task.kind.others})

    def _info(self, seen: Seen | None) -> dict[str, object]:
        assert self._task is not None
        solved = seen is not None and self._task.progress(seen) == 1.0
        info: dict[str, object] = {"task": self._task.kind.name, "solved": solved}
        if seen is not None:
            info |= {"progress": self._task.progress(seen), "inventory": dict(seen.inventory)}
        return info


def _told(events: Sequence[Event], error: str) -> list[tuple[str, str]]:
    """What a model should read of the events, and not more than it can."""
    told = [
        (name, str(values[name])) for name, values in events if name in _NAMES and name in values
    ]
    if error and not told:
        told = [("onError", error)]
    return [(name, text[:_LONGEST_TOLD]) for name, text in told[:5]]


def _listed(items: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(items.items())) or "nothing"


def _lead(action: str) -> str:
    """A policy that stops at the end of the line has said it, or was cut off before."""
    return "" if action.endswith("\n") else "\n"
