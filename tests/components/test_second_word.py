"""The second-word task: fixed tasks, splits that share no word, reward for the exact word."""

from __future__ import annotations

import pytest

from tuft_components.envs import make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.second_word import SecondWord, words_of
from tuft_components.errors import BadConfiguration


async def _prompt(split: str, seed: int, index: int) -> str:
    first = await SecondWord().reset(Task(split, seed, index))
    assert isinstance(first.observation, str)
    return first.observation


async def test_the_prompt_is_that_of_the_measurements() -> None:
    turn = await SecondWord().reset(Task("train", 0, 0))
    prompt = turn.observation
    assert isinstance(prompt, str)
    first, second = prompt.splitlines()[-1].removesuffix(" ->").split()
    assert prompt == f"Second word.\ncat dog -> dog\nsun ice -> ice\n{first} {second} ->"
    assert turn.info == {"reference": second}
    assert first != second


async def test_tasks_are_fixed_and_differ() -> None:
    assert await _prompt("train", 1, 2) == await _prompt("train", 1, 2)
    prompts = {await _prompt("train", 0, index) for index in range(200)}
    assert len(prompts) > 195
    assert await _prompt("train", 0, 0) != await _prompt("train", 1, 0)


async def test_splits_share_no_word() -> None:
    train, held_out = set(words_of("train")), set(words_of("eval"))
    assert len(train) > 400
    assert len(held_out) > 100
    assert not train & held_out
    assert not {"cat", "dog", "sun", "ice"} & (train | held_out)
    for index in range(50):
        prompt = await _prompt("eval", 0, index)
        assert set(prompt.splitlines()[-1].removesuffix(" ->").split()) <= held_out


@pytest.mark.parametrize(
    ("action", "reward"),
    [(" {}", 1), (" {}\nsun", 1), ("{}", 1), (" {}s", 0), (" x {}", 0), ("", 0), (" \n", 0)],
)
async def test_only_the_exact_word_is_right(action: str, reward: float) -> None:
    environment = SecondWord()
    first = await environment.reset(Task("train", 0, 3))
    result = await environment.step(action.format(first.info["reference"]))
    assert (result.reward, result.done) == (reward, True)


async def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="no split 'test'; there are: train, eval"):
        await SecondWord().reset(Task("test", 0, 0))


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("third_word", {}, "there are: second_word, .*; or give your own as package.module"),
        ("no_such_package.x:Env", {}, "can't import no_such_package.x"),
        ("tuft_components.envs.second_word:Nothing", {}, "has no 'Nothing'"),
        ("second_word", {"level": 3}, "level"),
        ("second_word:x", {}, "second_word takes nothing behind a colon"),
        ("tests.components.samples:transition", {}, "has no method reset"),
    ],
)
def test_a_wrong_environment_is_bad_configuration(
    name: str, args: dict[str, int], says: str
) -> None:
    with pytest.raises(BadConfiguration, match=says):
        make_environment(name, args)


@pytest.mark.parametrize("name", ["second_word", "python:{}", "{}"])
async def test_an_environment_by_its_name_and_by_its_path(name: str) -> None:
    family = make_environment(name.format("tuft_components.envs.second_word:SecondWord"), {})
    first, second = await family.open(), await family.open()
    assert first is not second
    assert await first.reset(Task("train", 0, 0)) == await second.reset(Task("train", 0, 0))
    await family.close()
