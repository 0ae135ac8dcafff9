"""`textarena:ID`."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest

pytest.importorskip("textarena", reason="textarena is not installed: make install-envs")

from tests.envs.walks import play, walk, walk_elsewhere, won
from tuft_components.envs import make_environment
from tuft_components.envs.base import Environment, Task, Turn
from tuft_components.errors import BadConfiguration


class Halving:
    """Wins Guess the Number."""

    def __init__(self) -> None:
        self.low, self.high, self.said = 1, 20, 0

    def __call__(self, turn: Turn) -> str:
        if "higher" in str(turn.observation)[-40:]:
            self.low = self.said + 1
        elif "lower" in str(turn.observation)[-40:]:
            self.high = self.said - 1
        self.said = (self.low + self.high) // 2
        return f" [{self.said}]\n"


async def test_halving_wins() -> None:
    for index in range(10):
        family = make_environment("textarena:GuessTheNumber-v0", {})
        assert await won(family, Halving(), Task("train", 0, index)) == 1


async def test_only_what_is_new_is_told() -> None:
    environment = await make_environment("textarena:GuessTheNumber-v0", {}).open()
    turns = await play(environment, Task("train", 0, 1), Halving())
    assert "You have to guess" in str(turns[0].observation)
    for turn in turns[1:-1]:
        assert re.fullmatch(
            r"The target number is (higher|lower)\.\nAction:", str(turn.observation)
        )
    await environment.close()


async def test_nonsense_ends_and_wins_nothing() -> None:
    environment = await make_environment("textarena:GuessTheNumber-v0", {}).open()
    for index in range(5):
        turns = await play(environment, Task("train", 0, index), lambda _: "x")
        assert [turn.done for turn in turns] == [False, False, True]  # one error is allowed
        assert "[number]" in turns[1].error
        assert sum(turn.reward for turn in turns) <= 0
    await environment.close()


async def test_an_error_near_the_number_does_not_pay() -> None:
    environment = await make_environment("textarena:GuessTheNumber-v0", {}).open()
    actions = iter(["[10]", "x", "x"])
    turns = await play(environment, Task("train", 0, 3), lambda _: next(actions))
    assert turns[-1].done
    assert turns[-1].reward == 0
    assert "Invalid Move" in turns[-1].info["reason"]
    await environment.close()


async def test_the_tower_of_hanoi_is_solved_by_choosing() -> None:
    way = iter(["[A C]", "[A B]", "[C B]", "[A C]", "[B A]", "[B C]", "[A C]"])

    def choose(turn: Turn) -> str:
        wanted, text = next(way), str(turn.observation)
        (number,) = re.findall(rf"(\d)\. {re.escape(wanted)}", text)
        return f"{number}\n"

    family = make_environment("textarena:TowerOfHanoi-v0", {"mode": "choose"})
    assert await won(family, choose) == 1


def board(turn: Turn) -> list[str]:
    """The last one that is shown, as nine fields."""
    text = str(turn.observation).rpartition("Current Board:")[2].partition("Available")[0]
    return re.findall(r"[XO\d]", text)


LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def finishing(turn: Turn) -> str:
    """Completes a line, else prevents one, else the middle, a corner, or anything."""
    fields, legal = board(turn), [int(move[1]) for move in turn.actions]
    for mark in "OX":
        for line in LINES:
            open_ = [place for place in line if place in legal]
            if len(open_) == 1 and sum(fields[place] == mark for place in line) == 2:
                return f"[{open_[0]}]"
    return f"[{next(place for place in (4, 0, 2, 6, 8, 1, 3, 5, 7) if place in legal)}]"


async def score(player: Any, seat: int = 0) -> float:
    environment = await make_environment("textarena:TicTacToe-v0", {"seat": seat}).open()
    total = 0.0
    for index in range(12):
        turns = await play(environment, Task("train", 0, index), player)
        assert turns[-1].done
        total += turns[-1].reward
    await environment.close()
    return total / 12


async def test_good_play_beats_the_random_opponent() -> None:
    assert await score(finishing) >= 0.8
    assert await score(lambda _: "[nothing]") == -1


async def test_the_second_seat_sees_the_first_move() -> None:
    environment = await make_environment("textarena:TicTacToe-v0", {"seat": 1}).open()
    first = await environment.reset(Task("train", 0, 0))
    assert board(first).count("O") == 1
    assert len(first.actions) == 8
    wrong = await environment.step(f"[{board(first).index('O')}]")
    assert "already occupied" in wrong.error
    assert board(wrong) == board(first)
    await environment.close()


@pytest.mark.slow
def test_the_same_in_another_process_and_another_for_another_task() -> None:
    name, args = "textarena:TicTacToe-v0", {"mode": "choose", "seat": 1}
    here = walk(name, args, Task("train", 0, 2), ["1"] * 3)
    assert here == walk_elsewhere(name, args, Task("train", 0, 2), ["1"] * 3)
    assert len({str(walk(name, args, Task("train", 0, index), [])) for index in range(8)}) > 2


async def test_episodes_at_once_do_not_disturb_each_other() -> None:
    """The games draw from one global generator."""
    family = make_environment("textarena:2048-v0-easy", {})
    environments = [await family.open() for _ in range(3)]

    async def walked(environment: Environment) -> list[str]:
        moves = random.Random(5)
        turns = await play(
            environment, Task("train", 0, 0), lambda turn: moves.choice(turn.actions), 12
        )
        return [str(turn.observation) for turn in turns]

    together = await asyncio.gather(*map(walked, environments))
    assert together[0] == together[1] == together[2] == await walked(environments[0])
    for environment in environments:
        await environment.close()


async def test_the_global_generator_is_left_as_it_was() -> None:
    random.seed(3)
    expected = random.Random(3).random()
    walk_in = make_environment("textarena:GuessTheNumber-v0", {})
    environment = await walk_in.open()
    await environment.reset(Task("train", 0, 0))
    assert random.random() == expected
    await environment.close()


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("Nothing-v0", {}, "Nothing-v0 not found in registry"),
        ("Nim-v0", {}, "the opponent in Nim-v0 needs `moves`"),
        ("TicTacToe-v0", {"players": 3}, "players must be 0, 1 or 2"),
        ("TicTacToe-v0", {"mode": "x"}, "mode is 'x'; there are: text, chat, choose"),
        ("GuessTheNumber-v0", {"make": {"x": 1}}, "unexpected keyword argument 'x'"),
    ],
)
def test_what_can_not_be_made_is_told(name: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfiguration, match=says):
        make_environment(f"textarena:{name}", args)
