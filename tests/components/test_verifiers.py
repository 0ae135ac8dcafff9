"""Rewards that check an answer: a number, a pattern, unit tests."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest

from tests.components.samples import transition
from tests.sandbox.needs import local_sandbox
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.rewards import reward_function, rewards_of
from tuft_components.rewards.answers import answer_in
from tuft_components.sandbox import tested
from tuft_components.trajectories import Trajectory


def episode(said: str, **info: Any) -> Trajectory:
    return Trajectory([transition(completion_text=said, info=info)])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("7 apples, 5 left.", "5"),
        ("it costs $1,234.50 now", "1234.5"),
        ("-3", "-3"),
        ("x=−7", "-7"),
        ("3/4", "3/4"),
        (".5", "1/2"),
        ("1e-3", "1/1000"),
        ("10,000,000", "10000000"),
        (r"so \boxed{42}, not 7", "42"),
        (r"\boxed{\frac{3}{4}} or 9", "3/4"),
        (r"\boxed{1} then \boxed{x = 2}", "2"),
        ("1 + 1\n#### 12\nthat is 9", "12"),
        (r"\boxed{none} 5", None),
        ("none", None),
        ("nan", None),
        ("inf", None),
        ("1/0", None),
        ("1e999999", None),
        ("v2 a1b2 12th", None),
        ("", None),
    ],
)
def test_the_number_of_a_text(text: str, number: str | None) -> None:
    assert answer_in(text) == (None if number is None else Fraction(number))


def test_a_number_by_its_place() -> None:
    text = "\\boxed{1}\n#### 2\n3"
    assert [answer_in(text, place) for place in ("boxed", "hashes", "last")] == [1, 2, 3]
    assert answer_in("5", "boxed") is None
    assert answer_in("5", "hashes") is None


@pytest.mark.parametrize("part", ["1", "1,", "1,111", " 1", "\\frac{", ".", "-", "1 / ", "1e", "{"])
def test_a_long_text_is_read_in_time(part: str) -> None:
    began = time.process_time()
    answer_in("\\boxed{" + part * 1_000_000)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("said", "reference", "args", "reward"),
    [
        (" 42\n", 42, {}, 1),
        (" 43\n", 42, {}, 0),
        ("0.30000000001", 0.3, {}, 1),
        ("1/3", "0.3333333", {}, 1),
        ("1/3", "0.333", {}, 0),
        ("3.1", 3.0, {"tolerance": 0.11}, 1),
        ("1090", 1000, {"relative": 0.1}, 1),
        ("1110", 1000, {"relative": 0.1}, 0),
        ("7", "some steps\n#### 7", {}, 1),
        ("nan", 7, {}, 0),
        ("", 7, {}, 0),
    ],
)
def test_numeric(said: str, reference: object, args: dict[str, Any], reward: float) -> None:
    assert rewards_of("numeric", [episode(said, reference=reference)], args).tolist() == [reward]


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"answer": 1}, r'numeric compares with info\["reference"\].*has: answer'),
        ({"reference": float("nan")}, "'nan': there is no number in it"),
        ({"reference": "x"}, "'x': there is no number in it"),
    ],
)
def test_numeric_needs_a_number_to_compare_with(info: dict[str, Any], says: str) -> None:
    with pytest.raises(BadData, match=says):
        rewards_of("numeric", [episode("1", **info)])


@pytest.mark.parametrize(
    ("said", "args", "reward"),
    [
        ("Answer: b!", {"pattern": r"Answer: (?P<answer>\w+)"}, 1),
        ("Answer: c!", {"pattern": r"Answer: (?P<answer>\w+)"}, 0),
        ("answer: B", {"pattern": r"Answer: (?P<answer>\w+)", "ignore_case": True}, 1),
        ("no", {"pattern": r"Answer: (?P<answer>\w+)"}, 0),
        ("it is <b>so</b>", {"pattern": "<b>.*</b>"}, 1),
        (" yes\n", {"pattern": "yes|no", "whole": True}, 1),
        ("yes, I think", {"pattern": "yes|no", "whole": True}, 0),
        ("", {"pattern": "x"}, 0),
    ],
)
def test_regex(said: str, args: dict[str, Any], reward: float) -> None:
    assert rewards_of("regex", [episode(said, reference="b")], args).tolist() == [reward]


def test_a_pattern_that_takes_for_ever_does_not_match() -> None:
    args = {"pattern": "(a|aa|b)+c", "timeout_s": 0.1}
    began = time.process_time()
    assert rewards_of("regex", [episode("ab" * 5_000)], args).tolist() == [0]
    args["pattern"] = "(a+)+$"
    assert rewards_of("regex", [episode("a" * 30 + "!")], args).tolist() == [0]
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("regex", {}, "pattern"),
        ("regex", {"pattern": "("}, r"pattern '\(': "),
        ("regex", {"pattern": ""}, "pattern is empty"),
        ("regex", {"pattern": "x", "timeout_s": 0}, "more than 0"),
        ("numeric", {"place": "end"}, "there are: auto, boxed, hashes, last"),
        ("numeric", {"tolerance": float("nan")}, "must be 0 or more"),
        ("numeric", {"relative": -1}, "must be 0 or more"),
        ("unit_tests", {"credit": "some"}, "there are: share, all"),
        ("unit_tests", {"test_s": 0}, "test_s must be more than 0"),
        ("unit_tests", {"limits": {"cpu_s": -1}}, "limits: cpu_s: .*greater than 0"),
        ("unit_tests", {"limits": {"memory": 1}}, "limits: memory: Extra inputs"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_judged(
    name: str, args: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadConfiguration, match=says):
        reward_function(name, args)


def test_regex_needs_a_reference_for_its_answer() -> None:
    with pytest.raises(BadData, match=r"compares its group `answer`.*has: nothing"):
        rewards_of("regex", [episode("b")], {"pattern": "(?P<answer>b)"})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx\n```", "x\n"),
        ("First\n```\na\n```\nthen ```py\nb\n``` done", "b\n"),
        ("x\n```", "x\n"),
        ("x = 1", "x = 1"),
        ("```python\ncut off", "cut off"),
        ("Here: ```py\ncut off", "cut off"),
        ("", ""),
    ],
)
def test_the_code_of_a_completion(text: str, code: str) -> None:
    assert tested.code_in(text) == code


RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
CHEATS = {
    "leaves": "import os, sys\nos._exit(0)",
    "exits": "import sys\nsys.exit(0)",
    "kills all": "import os\nos.kill(-1, 9)",
    "equals everything": (
        "class Any:\n    __eq__ = lambda s, o: True\n    __bool__ = lambda s: True\n"
        "def add(a, b):\n    return Any()"
    ),
    "writes modules": (
        "for name in ('json', 'math', 'plain', 'main', 'heapq'):\n"
        "    open(name + '.py', 'w').write('import builtins; builtins.add = lambda a, b: a + b')\n"
        "def add(a, b):\n    import os\n    os._exit(0)"
    ),
    "prints the report": (
        "import sys, os\nfor n in range(20):\n    try: os.write(n, b'[0, \"\"]\\n[1, \"\"]\\n')\n"
        "    except OSError: pass\ndef add(a, b): return None"
    ),
    "reads the tests": (
        "import gc, sys\nfound = [x for x in gc.get_objects() if isinstance(x, list) and "
        "any('assert' in str(y) for y in x[:9])]\nassert found\n"
    ),
}  # fmt: skip
TESTS = ["import heapq\nassert add(1, 2) == 3", "import math\nassert add(2, 2) == 4"]


def test_unit_tests_give_the_share_that_passed() -> None:
    local_sandbox()
    said = [RIGHT, RIGHT, "def add(a, b):\n    return 3\n```", "no code", "x" * 60_000, ""]
    trajectories = [
        Trajectory([transition(group_id=n, completion_text=text, info={"tests": TESTS})])
        for n, text in enumerate(said)
    ]
    assert rewards_of("unit_tests", trajectories).tolist() == [1, 1, 0.5, 0, 0, 0]
    some = trajectories[1:3]
    assert rewards_of("unit_tests", some, {"credit": "all"}).tolist() == [1, 0]


def test_a_program_is_compared_by_what_it_prints() -> None:
    local_sandbox()
    tests = [{"input": "1 2", "output": "3"}, {"input": "2 2\n", "output": "5\n"}]
    said = "```\na, b = map(int, input().split())\nprint(a + b)\n```"
    assert rewards_of("unit_tests", [episode(said, tests=tests)]).tolist() == [0.5]


def test_code_can_not_pass_tests_that_it_does_not_pass() -> None:
    local_sandbox()
    trajectories = [
        Trajectory([transition(group_id=n, completion_text=code, info={"tests": TESTS})])
        for n, code in enumerate(CHEATS.values())
    ]
    rewards = rewards_of("unit_tests", trajectories, {"test_s": 1.0}).tolist()
    assert dict(zip(CHEATS, rewards, strict=True)) == dict.fromkeys(CHEATS, 0.0)


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        (None, "tests must be a list"),
        ("assert x", "tests must be a list"),
        ([], "there are 0 tests"),
        (["pass"] * 301, "there are 301 tests: give 1 to 300"),
        ([3], "a test is Python statements, or"),
        ([{"input": "x"}], "a test is Python statements, or"),
        ([{"input": "x", "output": 3}], "a test is Python statements, or"),
    ],
)
def test_tests_that_are_none(tests: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tested.tests_of(tests)
    with pytest.raises(BadData, match=r'reward unit_tests: info\["tests"\]: '):
        rewards_of("unit_tests", [episode("x", tests=tests)])


def test_unit_tests_are_needed() -> None:
    with pytest.raises(BadData, match=r'runs info\["tests"\].*has: reference'):
        rewards_of("unit_tests", [episode("x", reference=1)])
