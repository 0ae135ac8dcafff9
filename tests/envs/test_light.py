"""The light environments: what random and perfect play win is what their formulas say."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from tests.envs.walks import walk, walk_elsewhere
from tuft_components.envs import make_environment
from tuft_components.envs.arithmetic import Arithmetic, guessing, pairs_of
from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.choose import meant
from tuft_components.envs.grid import MOVES, Grid
from tuft_components.envs.hard_tail import COLOURS, TAIL, HardTail
from tuft_components.envs.number_guess import NumberGuess, scores
from tuft_components.envs.registry import Registered

Player = Callable[[Turn, list[str]], str]
"""Gets what was said last and the actions so far."""


class Plain(Protocol):
    """Nothing to close."""

    async def reset(self, task: Task) -> Turn: ...
    async def step(self, action: str) -> Turn: ...


async def score(environment: Plain, player: Player, tasks: int, split: str = "train") -> float:
    """The mean reward of an episode."""
    total = 0.0
    for index in range(tasks):
        turn = await environment.reset(Task(split, 0, index))
        actions: list[str] = []
        while not turn.done:
            actions.append(player(turn, actions))
            turn = await environment.step(actions[-1])
            total += turn.reward
    return total / tasks


def blindly(turn: Turn, actions: list[str]) -> str:
    return f" {random.randint(1, 8)}\n"


class Halving:
    """Guesses in the middle of what is open; `anywhere`: anything that is open."""

    def __init__(self, anywhere: bool) -> None:
        self.anywhere = anywhere

    def __call__(self, turn: Turn, actions: list[str]) -> str:
        if not actions:
            self.low, self.high = 1, 8
        elif "It is higher" in str(turn.observation):
            self.low = int(actions[-1]) + 1
        else:
            self.high = int(actions[-1]) - 1
        if self.anywhere:
            return f" {random.randint(self.low, self.high)}\n"
        return f" {(self.low + self.high) // 2}\n"


@pytest.mark.parametrize(
    ("player", "name"),
    [
        (blindly, "random"),
        (Halving(anywhere=True), "consistent"),
        (Halving(anywhere=False), "best"),
    ],
)
async def test_what_play_wins_at_number_guess(player: Player, name: str) -> None:
    random.seed(1)
    expected = scores()[name]
    assert await score(NumberGuess(), player, 4000) == pytest.approx(expected, abs=0.03)


def test_the_scores_are_those_of_the_measurements() -> None:
    assert scores() == pytest.approx({"random": 0.33, "consistent": 0.61, "best": 0.875}, abs=0.01)


@pytest.mark.parametrize(
    ("action", "says"), [(" 9\n", "1 to 8"), ("four", "1 to 8"), ("", "1 to 8")]
)
async def test_what_is_no_guess_costs_one_and_is_told(action: str, says: str) -> None:
    environment = NumberGuess(guesses=2)
    first = await environment.reset(Task("train", 0, 0))
    turn = await environment.step(action)
    assert says in turn.error
    assert not turn.done
    assert (await environment.step(str(first.info["reference"]))).reward == 1


async def test_arithmetic_pays_for_the_right_number() -> None:
    def right(turn: Turn, actions: list[str]) -> str:
        return f" {turn.info['reference']}\n"

    for split in SPLITS:
        assert await score(Arithmetic(), right, 100, split) == 1
        nines = await score(Arithmetic(), lambda *_: "9", 2000, split)
        assert nines <= guessing(split)["constant"] + 0.03
    wrong = await Arithmetic().step("nine")
    assert (wrong.reward, wrong.done, wrong.error) == (0, True, "say a whole number")


async def test_arithmetic_shows_what_it_asks() -> None:
    environment = Arithmetic()
    for index in range(50):
        turn = await environment.reset(Task("eval", 3, index))
        asked = str(turn.observation).splitlines()[-1].removesuffix("=")
        assert eval(asked) == turn.info["reference"] >= 0


def test_the_splits_of_arithmetic_share_no_pair() -> None:
    train, held_out = (set(pairs_of(split, 9)) for split in SPLITS)
    assert not train & held_out
    assert len(train | held_out) == 55
    assert 10 < len(held_out) < 20


async def test_the_grid_pays_what_its_best_way_is_worth() -> None:
    environment = Grid(3, 8)
    for index in range(50):
        turn = await environment.reset(Task("train", 0, index))
        best, won = environment.best_score(), 0.0
        while not turn.done:
            turn = await environment.step(_nearer(environment))
            won += turn.reward
        assert won == pytest.approx(best)
        assert best >= 0.6


def _nearer(grid: Grid) -> str:
    """The move after which the goal is nearer, by trying all."""
    here, distance = grid._here, grid.distance()
    assert distance is not None
    for name, (down, right) in MOVES.items():
        grid._here = (here[0] + down, here[1] + right)
        inside = all(0 <= number < 3 for number in grid._here) and grid._here != grid._wall
        nearer = inside and grid.distance() == distance - 1
        grid._here = here
        if nearer:
            return name
    raise AssertionError


async def test_the_grid_goes_nowhere_through_walls() -> None:
    environment = Grid(2, 50)
    await environment.reset(Task("train", 0, 0))
    before = environment.shown()
    blocked = [name for name in MOVES if (await environment.step(name)).error]
    assert blocked
    turn = await environment.step("fly")
    assert "say up" in turn.error
    assert before.count("A") == environment.shown().count("A") == 1


async def test_the_grid_is_played_by_numbers_too() -> None:
    family = make_environment("grid", {"mode": "choose"})
    environment = await family.open()
    turn = await environment.reset(Task("train", 0, 0))
    assert str(turn.observation).endswith("1. up\n2. down\n3. left\n4. right\nAction:")
    assert turn.actions == ["1", "2", "3", "4"]
    wrong = await environment.step(" 5\n")
    assert wrong.error == "give a number from 1 to 4"
    assert str(wrong.observation).startswith("give a number from 1 to 4\n1. up")
    cut_off = await environment.step(" 1")
    assert str(cut_off.observation).startswith("\n")
    assert family.stop == ("\n",)


async def test_the_grid_is_played_by_words_too() -> None:
    family = make_environment("grid", {"mode": "words"})
    environment = await family.open()
    turn = await environment.reset(Task("train", 0, 0))
    assert str(turn.observation).endswith("\n- up\n- down\n- left\n- right\nAction:")
    assert turn.actions == ("up", "down", "left", "right")
    wrong = await environment.step(" 1\n")
    assert wrong.error == "name one of these, by words that only it has"
    assert str(wrong.observation).startswith(f"{wrong.error}\n- up")
    assert not (await environment.step(" Down.\n")).error.startswith("name one")


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (" Drape embroidered curtain $47\n", 0),
        (" embroidered curtain", 0),
        ("embroidered cur", 0),  # cut off by max_tokens
        ("embroidered cur tain", None),
        ("roidered curtain", None),
        ("curtain embroidered", None),
        ("curtain", None),  # two have it
        ("yoga mat\ncolor:", 2),
        ("\n\n MAT!", 2),
        ("back", 3),  # in full, though another one has it too
        ("back home", 4),
        ("+", 5),  # no word at all, but in full
        ("-", 6),
        ("*", None),
        ("", None),
        ("\n", None),
        ("same", None),  # in full, and twice
    ],
)
def test_words_mean_the_only_action_that_has_them(answer: str, place: int | None) -> None:
    lines = ("Drape embroidered curtain $47", "Plain curtain $9", "Karma yoga mat $49")
    assert meant(answer, [*lines, "back", "Back home", "+", "-", "same", "same"]) == place


async def test_the_hard_tail_is_rare_and_has_fixed_answers() -> None:
    environment = HardTail(tail=6, rare=0.1)
    firsts = [await environment.reset(Task("train", 0, index)) for index in range(2000)]
    tail = {
        (first.info["tail"], first.info["reference"]) for first in firsts if "tail" in first.info
    }
    assert tail == set(list(TAIL.items())[:6])
    assert 120 < sum("tail" in first.info for first in firsts) < 280
    assert sorted(TAIL.values()) == sorted(3 * COLOURS)

    def right(turn: Turn, actions: list[str]) -> str:
        return f" {turn.info['reference']}"

    def first_colour(turn: Turn, actions: list[str]) -> str:
        return f" {COLOURS[0]}"

    assert await score(environment, right, 200) == 1
    assert await score(HardTail(rare=0), first_colour, 50) == 0
    assert await score(HardTail(tail=9, rare=1), first_colour, 900) == pytest.approx(
        1 / 3, abs=0.06
    )
    wrong = HardTail(rare=1)
    await wrong.reset(Task("eval", 0, 0))
    assert (await wrong.step(" pink")).error == "say one of red, green, blue"


@pytest.mark.parametrize("name", ["second_word", "number_guess", "arithmetic", "grid", "hard_tail"])
async def test_tasks_are_fixed_differ_and_have_two_splits(name: str) -> None:
    family = make_environment(name, {})
    one, other = await family.open(), await family.open()
    firsts = [await one.reset(Task("train", 0, index)) for index in range(20)]
    assert firsts == [await other.reset(Task("train", 0, index)) for index in range(20)]
    different = {(str(turn.observation), str(turn.info)) for turn in firsts}
    assert len(different) > 5
    with pytest.raises(ValueError, match="no split 'x'; there are: train, eval"):
        await one.reset(Task("x", 0, 0))


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.part", "yaml.no_such_part"])
def test_what_is_missing_is_found_without_importing(module: str) -> None:
    entry = Registered(
        "x:y", "…", modules=("json", module), programs=("sh|bash", "no-such|nor-this")
    )
    assert entry.missing() == [f"the Python module {module}", "the program no-such or nor-this"]


@pytest.mark.parametrize(
    ("name", "args", "actions"),
    [
        ("second_word", {}, [" dog"]),
        ("number_guess", {}, [" 5", " nine", " 2", " 7"]),
        ("arithmetic", {}, [" 7"]),
        ("grid", {}, ["up", "left", "right", "fly", "down", "down"]),
        ("grid", {"mode": "choose"}, ["1", "2"]),
        ("grid", {"mode": "words"}, ["up", "down"]),
        ("hard_tail", {}, [" red"]),
        ("code", {}, []),
    ],
)
def test_the_same_in_another_process_and_another_for_another_task(
    name: str, args: dict[str, Any], actions: list[str]
) -> None:
    for index in (0, 11):
        task = Task("train", 3, index)
        assert walk(name, args, task, actions) == walk_elsewhere(name, args, task, actions)
    assert len({str(walk(name, args, Task("train", 3, index), actions)) for index in range(20)}) > 1
