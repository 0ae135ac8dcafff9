"""`reasoning_gym:DATASET`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: make install-envs")

from tests.envs.walks import messages_of, play, walk, walk_elsewhere, won
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task, Turn
from tuft_components.envs.reasoning import HASH_DEPENDENT, answer_in
from tuft_components.errors import BadConfiguration

NAMES = ["leg_counting", "basic_arithmetic", "spell_backward", "prime_factorization"]


def reference(turn: Turn) -> str:
    return str(turn.info["reference"])


@pytest.mark.parametrize("name", NAMES)
async def test_the_answer_wins_and_nonsense_does_not(name: str) -> None:
    family = make_environment(f"reasoning_gym:{name}", {})
    assert await won(family, lambda turn: f" {reference(turn)}\n") == 1
    for nonsense in ("", "no idea", "<answer></answer>", "\0" * 50):
        family = make_environment(f"reasoning_gym:{name}", {})
        assert await won(family, lambda _, said=nonsense: said) < 0.1  # type: ignore[misc]


async def test_a_scorer_that_raises_is_told() -> None:
    environment = await make_environment("reasoning_gym:prime_factorization", {}).open()
    turn = (await play(environment, Task("train", 0, 0), lambda _: "zzz"))[-1]
    assert (turn.reward, turn.done) == (0, True)
    assert turn.error.startswith("the answer can't be scored: invalid literal for int()")
    await environment.close()


@pytest.mark.slow
def test_the_same_in_another_process_and_another_for_another_task() -> None:
    name = "reasoning_gym:leg_counting"
    here = walk(name, {}, Task("eval", 3, 5), ["7"])
    assert here == walk_elsewhere(name, {}, Task("eval", 3, 5), ["7"])
    tasks = [Task(split, 3, index) for split in ("train", "eval") for index in range(6)]
    assert len({str(walk(name, {}, task, [])[0][0]) for task in tasks}) == 12


async def test_how_it_is_asked() -> None:
    args: dict[str, Any] = {"prompt": "Q: {question}", "ask": "A:", "stop": ["\n"]}
    family = make_environment("reasoning_gym:leg_counting", args)
    environment = await family.open()
    text = str((await environment.reset(Task("train", 0, 0))).observation)
    assert text.startswith("Q: Your task")
    assert text.endswith("\nA:")
    assert family.stop == ("\n",)
    await environment.close()
    chat = make_environment("reasoning_gym:leg_counting", {"mode": "chat"})
    environment = await chat.open()
    first = await environment.reset(Task("train", 0, 0))
    (message,) = messages_of(first)
    assert message == {"role": "user", "content": text[3:-3]}
    assert chat.stop == ()
    await environment.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 12\n", "12"),
        ("I think <answer>3</answer>, no: <answer>\n4 </answer>.", "4"),
        ("<answer>3", "<answer>3"),
    ],
)
def test_where_the_answer_stands(text: str, answer: str) -> None:
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("nothing", {}, "reasoning-gym has no dataset 'nothing'"),
        ("leg_counting", {"dataset": {"legs": 1}}, "can't make leg_counting: .*'legs'"),
        ("leg_counting", {"dataset": {"min_animals": 9, "max_animals": 1}}, "can't make leg_count"),
        ("leg_counting", {"dataset": {"seed": 1}}, "seed and size are not given"),
        ("leg_counting", {"mode": "choose"}, "mode is 'choose'; there are: text, chat"),
        ("leg_counting", {"prompt": "?"}, "prompt must hold {question}"),
        ("ransom_note", {}, "set PYTHONHASHSEED=0 in the environment of the step"),
    ],
)
def test_what_can_not_be_made_is_told(name: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfiguration, match=says):
        make_environment(f"reasoning_gym:{name}", args)


_QUESTIONS = """
import hashlib, json, sys
import reasoning_gym
from reasoning_gym.factory import DATASETS
found = {}
for name in sorted(set(DATASETS) - {"composite"}):
    text = ""
    for seed in range(0, 24, 2):
        entry = reasoning_gym.create_dataset(name, seed=seed * 1000003, size=1)[0]
        text += repr((entry["question"], entry["answer"]))
    found[name] = hashlib.md5(text.encode()).hexdigest()
sys.stdout.write("\\n" + json.dumps(found))
"""


@pytest.mark.slow
def test_which_datasets_follow_from_the_hash_seed() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _QUESTIONS],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2", "3")
    ]
    first, *others = [json.loads(p.communicate()[0].splitlines()[-1]) for p in processes]
    assert {
        name for name in first for other in others if other[name] != first[name]
    } == HASH_DEPENDENT
