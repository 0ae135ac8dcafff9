"""`gym:ID`, with Gymnasium's own environments."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("gymnasium", reason="gymnasium is not installed: make install-envs")

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.envs.walks import walk, walk_elsewhere, won
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.gym.text import TextCodec, plain
from tuft_components.errors import BadConfiguration

MOVES = ["left", "down", "right", "up"]
LAKE: dict[str, Any] = {
    "make": {"is_slippery": False, "render_mode": "ansi"},
    "actions": MOVES,
    "show": "render",
}
WAY = ["down", "down", "right", "right", "down", "right"]


@pytest.mark.parametrize("mode", ["text", "chat"])
async def test_who_knows_the_way_wins(mode: str) -> None:
    way = iter(WAY)
    family = make_environment("gym:FrozenLake-v1", {**LAKE, "mode": mode})
    assert await won(family, lambda _: f" {next(way)}\n") == 1


async def test_a_choice_wins_too() -> None:
    way = iter(WAY)
    family = make_environment("gym:FrozenLake-v1", {**LAKE, "mode": "choose"})
    assert await won(family, lambda _: f"{MOVES.index(next(way)) + 1}\n") == 1


async def test_what_is_no_action_changes_nothing() -> None:
    family = make_environment("gym:FrozenLake-v1", LAKE)
    environment = await family.open()
    first = await environment.reset(Task("train", 0, 0))
    assert str(first.observation).startswith("FrozenLake-v1\n[S]FFF\n")
    assert str(first.observation).endswith("Say left, down, right or up.\nAction:")
    for wrong in ("fly", "4", "-1", "", "99999999999", "\0"):
        turn = await environment.step(wrong)
        assert turn.error == "say left, down, right or up"
        assert (turn.reward, turn.done, list(turn.actions)) == (0, False, MOVES)
    assert "[S]" not in str((await environment.step("1\n")).observation)  # a number goes as well
    await environment.close()
    assert family.stop == ("\n",)


async def test_a_fall_wins_nothing() -> None:
    way = iter(["down", "right"])
    assert await won(make_environment("gym:FrozenLake-v1", LAKE), lambda _: next(way)) == 0


async def test_the_time_limit_is_told_as_the_end() -> None:
    args = {"make": {"max_episode_steps": 5}, "actions": ["left", "right"]}
    moves = iter(["left", "right"] * 3)
    assert await won(make_environment("gym:CartPole-v1", args), lambda _: next(moves)) == 5


def test_the_same_in_another_process_and_another_for_another_task() -> None:
    args = {"actions": ["left", "right"]}
    actions = ["left", "right", "left", "nothing", "right"]
    here = walk("gym:CartPole-v1", args, Task("train", 0, 7), actions)
    assert here == walk_elsewhere("gym:CartPole-v1", args, Task("train", 0, 7), actions)
    others = [
        walk("gym:CartPole-v1", args, Task(*task), [])[0]
        for task in (("train", 0, 8), ("eval", 0, 7))
    ]
    assert len({str(each) for each in [here[0], *others]}) == 3


def test_only_allowed_actions_are_listed() -> None:
    ((_, _, _, actions),) = walk("gym:Taxi-v4", {}, Task("train", 0, 0), [])
    environment = gymnasium.make("Taxi-v4")
    _, info = environment.reset(seed=Task("train", 0, 0).number())
    assert actions == [str(n) for n, allowed in enumerate(info["action_mask"]) if allowed]
    assert 0 < len(actions) < 6


def test_texts_of_the_spaces() -> None:
    parts = spaces.Dict(
        {
            "place": spaces.Box(-1, 1, (2,), np.float32),
            "map": spaces.Box(0, 9, (2, 2), np.int64),
            "word": spaces.Text(9),
            "both": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
        }
    )
    codec = TextCodec(parts, spaces.Discrete(2))
    observation = {
        "both": (2, np.array([1, 0], np.int8)),
        "map": np.array([[1, 2], [3, 4]]),
        "place": np.array([-0.00001, 0.12345], np.float32),
        "word": "hello",
    }
    expected = {"both:\n2\n1 0", "map:\n1 2\n3 4", "place: 0.000 0.123", "word: hello"}
    assert all(part in codec.text(observation) for part in expected)
    named = TextCodec(spaces.Box(0, 1, (2,)), spaces.Discrete(2), names=["x", "y"], digits=1)
    assert named.text(np.array([0.25, 1], np.float32)) == "x 0.2, y 1.0"


@pytest.mark.parametrize(
    ("space", "said", "done"),
    [
        (spaces.Discrete(3, start=5), "7.", 7),
        (spaces.Text(5), " abc\n", "abc"),
        (spaces.Box(-1, 1, (2,), np.float32), "[0.5, -1]", [0.5, -1.0]),
        (spaces.MultiDiscrete([2, 3]), "1 2", [1, 2]),
        (spaces.MultiBinary(3), "1,0,1", [1, 0, 1]),
    ],
)
def test_actions_of_the_spaces(space: Any, said: str, done: Any) -> None:
    taken = TextCodec(spaces.Discrete(2), space).action(said)
    assert np.array_equal(taken, done)
    assert space.contains(taken)


@pytest.mark.parametrize(
    ("space", "said", "right"),
    [
        (spaces.Discrete(3, start=5), "4", "say a number from 5 to 7"),
        (spaces.Text(3), "abcd", "say a text of 1 to 3 characters"),
        (spaces.Box(-1, 1, (2,), np.float32), "0.5 2", "say 2 numbers from -1.000 to 1.000"),
        (spaces.Box(-1, 1, (1,), np.float32), "nan", "say a number from -1.000 to 1.000"),
        (spaces.MultiDiscrete([2, 3]), "1 1.5", "say 2 numbers: 0 to 1, 0 to 2"),
        (spaces.MultiBinary(3), "1 2", "say 3 numbers, each 0 or 1"),
    ],
)
def test_what_would_be_right_is_told(space: Any, said: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"^{right}$"):
        TextCodec(spaces.Discrete(2), space).action(said)


class Backwards:
    """A codec of a user's."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        self.environment = environment

    def text(self, observation: Any) -> str:
        return f"field {observation}"

    def action(self, text: str) -> Any:
        return MOVES.index(text.strip()[::-1])

    def actions(self, info: Any) -> list[str]:
        return [move[::-1] for move in MOVES]

    def hint(self) -> str:
        return ""


async def test_a_codec_of_ones_own() -> None:
    args = {"make": {"is_slippery": False}, "codec": "tests.envs.test_gym:Backwards"}
    way = iter(WAY)
    assert await won(make_environment("gym:FrozenLake-v1", args), lambda _: next(way)[::-1]) == 1


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("Nothing-v0", {}, "gymnasium can't make Nothing-v0"),
        ("nowhere_to_be_found:X-v0", {}, "gymnasium can't make .*nowhere_to_be_found"),
        ("CartPole-v1", {"make": {"x": 1}}, "unexpected keyword argument 'x'"),
        ("CartPole-v1", {"actions": ["left"]}, "1 names are given for the actions of Discrete"),
        ("CartPole-v1", {"names": ["x"]}, "it observes 4 numbers: 1 names are given"),
        ("CartPole-v1", {"mode": "loud"}, "mode is 'loud'; there are: text, chat, choose"),
        ("CartPole-v1", {"show": "it"}, "show is 'it'; there are: observation, render"),
        ("CartPole-v1", {"codec": "nowhere:X"}, "codec nowhere:X: can't import nowhere"),
    ],
)
def test_what_can_not_be_made_is_told(name: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfiguration, match=says):
        make_environment(f"gym:{name}", args)


def test_large_observations_want_a_codec() -> None:
    with pytest.raises(ValueError, match="more than 256: give a `codec`"):
        TextCodec(spaces.Box(0, 255, (210, 160, 3), np.uint8), spaces.Discrete(2))
    with pytest.raises(TypeError, match=r"no obvious text .*: give a `codec`"):
        TextCodec(spaces.Discrete(2), spaces.Dict({"x": spaces.Discrete(2)}))


def test_highlights_of_a_rendering_stay_visible() -> None:
    assert plain("\x1b[41mS\x1b[0mF\x1b[34;1mR\x1b[0m") == "[S]FR"
