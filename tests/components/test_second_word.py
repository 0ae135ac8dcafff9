"""The second-word task: fixed tasks, splits that share no word, reward for the exact word."""

from __future__ import annotations

import pytest

from tuft_components.envs import make_environment
from tuft_components.envs.second_word import words_of
from tuft_components.errors import BadConfiguration


async def _prompt(split: str, seed: int, index: int) -> str:
    episode = make_environment("second_word", {}).episode(split=split, seed=seed, index=index)
    prompt = await episode.initial_observation()
    assert isinstance(prompt, str)
    return prompt


async def test_the_prompt_is_that_of_the_measurements() -> None:
    episode = make_environment("second_word", {}).episode(split="train", seed=0, index=0)
    prompt = await episode.initial_observation()
    assert isinstance(prompt, str)
    first, second = prompt.splitlines()[-1].removesuffix(" ->").split()
    assert prompt == f"Second word.\ncat dog -> dog\nsun ice -> ice\n{first} {second} ->"
    assert episode.info == {"reference": second}
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
    episode = make_environment("second_word", {}).episode(split="train", seed=0, index=3)
    await episode.initial_observation()
    result = await episode.step(action.format(episode.info["reference"]))
    assert (result.reward, result.done) == (reward, True)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="no split 'test'; there are: train, eval"):
        make_environment("second_word", {}).episode(split="test", seed=0, index=0)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("third_word", {}, "there are: second_word; or give your own as package.module"),
        ("no_such_package.x:Env", {}, "can't import no_such_package.x"),
        ("tuft_components.envs.second_word:Nothing", {}, "has no 'Nothing'"),
        ("second_word", {"level": 3}, "level"),
    ],
)
def test_a_wrong_environment_is_bad_configuration(
    name: str, args: dict[str, int], says: str
) -> None:
    with pytest.raises(BadConfiguration, match=says):
        make_environment(name, args)


def test_an_environment_by_import_path() -> None:
    environment = make_environment("tuft_components.envs.second_word:SecondWord", {})
    assert type(environment).__name__ == "SecondWord"
