"""`gym:ID`: any environment that is registered with Gymnasium, with a text codec.

    make_environment("gym:CartPole-v1", {"actions": ["left", "right"]})
    make_environment("gym:my_package:MyGame-v0", {"codec": "my_package.texts:Codec"})

The id may name the package that registers it (`package:id`), as Gymnasium's own `make` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tuft_components.envs.base import EnvironmentFamily, Task, Turn
from tuft_components.envs.families import FamilyOf
from tuft_components.envs.gym.text import Codec, TextCodec, plain
from tuft_components.envs.presenting import presented
from tuft_components.names import resolve

if TYPE_CHECKING:
    import gymnasium

SHOWS = ("observation", "render")


def gym(
    id: str,  # noqa: A002  # the word of Gymnasium
    *,
    make: Mapping[str, Any] | None = None,
    actions: Sequence[str] = (),
    names: Sequence[str] = (),
    digits: int = 3,
    codec: str = "",
    show: str = "observation",
    intro: str = "",
    mode: str = "text",
) -> EnvironmentFamily:
    """
    Args:
        make: arguments of `gymnasium.make`.
        actions, names, digits: as `TextCodec` tells.
        codec: `package.module:Class` of your own codec, called with the environment.
        show: the observation, or what `render` gives (with `make={"render_mode": "ansi"}`).
        intro: what the first observation begins with; empty: the id.
        mode: text, chat, choose or words.

    Raises:
        ValueError, TypeError: there is no such environment, or no text for what it observes or
            takes.
    """
    if show not in SHOWS:
        raise ValueError(f"show is {show!r}; there are: {', '.join(SHOWS)}")

    def made() -> GymEnvironment:
        environment = _make(id, make or {})
        if codec:
            found: Codec = resolve(codec, {}, "codec")(environment)
        else:
            spaces = environment.observation_space, environment.action_space
            found = TextCodec(*spaces, actions=actions, names=names, digits=digits, show=show)
        return GymEnvironment(environment, found, show == "render", intro or id)

    return presented(FamilyOf(made(), made), mode)


def _make(name: str, arguments: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    import gymnasium

    try:
        return cast("gymnasium.Env[Any, Any]", gymnasium.make(name, **arguments))
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"gymnasium can't make {name}: {error}") from error


class GymEnvironment:
    """Its tasks are seeds: those of the two splits differ, as far as the environment uses them."""

    def __init__(
        self, environment: gymnasium.Env[Any, Any], codec: Codec, render: bool, intro: str
    ) -> None:
        self._environment, self._codec = environment, codec
        self._render, self._intro = render, intro
        self._last: Turn = Turn()

    def reset(self, task: Task) -> Turn:
        observation, info = self._environment.reset(seed=task.number())
        text = f"{self._intro}\n{self._shown(observation)}"
        hint = self._codec.hint()
        actions = tuple(self._codec.actions(info))
        self._last = Turn(f"{text}\n{hint}" if hint else text, actions=actions)
        return self._last

    def step(self, action: str) -> Turn:
        try:
            taken = self._codec.action(action)
        except ValueError as error:  # it can't be read: nothing happened
            return Turn(str(error), actions=self._last.actions, error=str(error))
        observation, reward, terminated, truncated, info = self._environment.step(taken)
        self._last = Turn(
            self._shown(observation),
            reward=float(reward),
            done=bool(terminated or truncated),
            actions=tuple(self._codec.actions(info)),
            info={"truncated": True} if truncated else {},
        )
        return self._last

    def close(self) -> None:
        self._environment.close()

    def _shown(self, observation: Any) -> str:
        if not self._render:
            return self._codec.text(observation)
        rendered = self._environment.render()
        if not isinstance(rendered, str):
            raise TypeError(
                f"render gave {type(rendered).__name__}, not text: give "
                '{"make": {"render_mode": "ansi"}} where the environment has that mode'
            )
        return plain(rendered).strip("\n")
