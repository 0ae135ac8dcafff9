"""The environment `code`."""

from __future__ import annotations

import pytest

from tests.sandbox.needs import local_sandbox
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task
from tuft_components.envs.code import Code, exercises
from tuft_components.errors import BadConfiguration
from tuft_components.sandbox import Limits, run_all, tested


def test_splits_share_no_task() -> None:
    train, evaluation = ({each.name for each in exercises(split)} for split in ("train", "eval"))
    assert not train & evaluation
    assert (len(train), len(evaluation)) == (18, 6)
    with pytest.raises(ValueError, match="no split 'x'"):
        exercises("x")


def test_a_right_answer_wins_and_a_wrong_one_does_not() -> None:
    local_sandbox()
    environment = Code()
    first = environment.reset(Task("train", 0, 3))
    assert str(first.observation).endswith("```python\n")
    assert environment.reset(Task("train", 0, 3)) == first
    name = first.info["task"]
    solution = next(each.solution for each in exercises("train") if each.name == name)
    assert solution not in str(first)
    turn = environment.step(f"{solution}\n```")
    assert (turn.reward, turn.done, turn.error) == (1.0, True, "")
    for wrong in ("I do not know", "", "x" * 20_000):
        environment.reset(Task("train", 0, 3))
        turn = environment.step(wrong)
        assert (turn.reward, turn.done, bool(turn.error)) == (0.0, True, True)


def test_a_second_attempt_gets_what_is_more() -> None:
    local_sandbox()
    environment = Code(attempts=2)
    index = next(
        index
        for index in range(200)
        if environment.reset(Task("train", 0, index)).info["task"] == "is_even"
    )
    environment.reset(Task("train", 0, index))
    turn = environment.step("def is_even(n):\n    return True\n")
    assert turn.reward == pytest.approx(2 / 3)
    assert turn.observation == "```\nWrong: AssertionError\nOnce more:\n```python\n"
    assert not turn.done
    turn = environment.step("def is_even(n):\n    return n % 2 == 0\n```")
    assert turn.reward == pytest.approx(1 / 3)
    assert turn.done


@pytest.mark.slow
def test_every_exercise_can_be_solved() -> None:
    local_sandbox()
    every = [*exercises("train"), *exercises("eval")]
    results = run_all([tested.test_job(each.solution, each.tests, Limits(), 5.0) for each in every])
    for each, result in zip(every, results, strict=True):
        assert tested.tested(result, each.tests).share == 1, each.name


@pytest.mark.parametrize("args", [{"attempts": 0}, {"credit": "x"}, {"longest": 0}, {"no": 1}])
def test_wrong_arguments(args: dict[str, object]) -> None:
    with pytest.raises(BadConfiguration, match="environment code"):
        make_environment("code", args)
