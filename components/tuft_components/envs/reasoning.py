"""`reasoning_gym:DATASET`: one question of reasoning-gym, and its own score of the answer.

make_environment("reasoning_gym:leg_counting", {"dataset": {"max_animals": 3}})
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tuft_components.envs.base import EnvironmentFamily, Task, Turn
from tuft_components.envs.families import FamilyOf
from tuft_components.envs.global_random import GlobalRandom
from tuft_components.envs.presenting import presented

# Their questions follow from Python's hash seed too, as seen with reasoning-gym 0.1.25
# (`tests/envs/test_reasoning.py` looks whether these still do, and whether others do).
HASH_DEPENDENT = frozenset(
    {
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "list_functions",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def reasoning_gym(
    name: str,
    *,
    dataset: Mapping[str, Any] | None = None,
    prompt: str = "{question}",
    ask: str = "Answer:",
    stop: Sequence[str] = (),
    mode: str = "text",
) -> EnvironmentFamily:
    """
    Args:
        dataset: its configuration, as `reasoning_gym.create_dataset` takes it.
        prompt: how the question is asked; `{question}` stands in it. Ask for `<answer>` tags here
            where the model shall reason first: what stands in the last pair is the answer then.
        ask: what a text ends with; not for chats.
        stop: ends an answer, in the mode text. `["\\n"]` where it is one line.
        mode: text or chat.

    Raises:
        ValueError: there is no such dataset, or it does not take these arguments.
    """
    if mode not in ("text", "chat"):
        raise ValueError(f"mode is {mode!r}; there are: text, chat")
    if "{question}" not in prompt:
        raise ValueError("prompt must hold {question}")

    def made() -> ReasoningGym:
        return ReasoningGym(name, dataset or {}, prompt)

    return presented(FamilyOf(made(), made), mode, ask=ask, stop=tuple(stop))


class ReasoningGym:
    """Its tasks are seeds. The reward is 0 to 1, as the dataset scores the answer."""

    def __init__(self, name: str, arguments: Mapping[str, Any], prompt: str) -> None:
        from reasoning_gym.factory import DATASETS

        if name not in DATASETS:
            raise ValueError(f"reasoning-gym has no dataset {name!r}")
        if {"seed", "size"} & set(arguments):
            raise ValueError("seed and size are not given: each task is a dataset of one question")
        if name in HASH_DEPENDENT and sys.flags.hash_randomization:
            raise ValueError(
                f"the questions of {name} are others in each process, by Python's hash seed: "
                "set PYTHONHASHSEED=0 in the environment of the step"
            )
        self._name, self._arguments, self._prompt = name, dict(arguments), prompt
        self._random = GlobalRandom()  # some datasets draw from the global generators
        try:
            self._begin(0)
        except (AssertionError, TypeError) as error:  # how its configurations refuse arguments
            raise ValueError(f"reasoning-gym can't make {name}: {error}") from error

    def _begin(self, seed: int) -> None:
        import reasoning_gym

        self._random.seed(seed)
        with self._random.own():
            self._dataset = reasoning_gym.create_dataset(
                self._name, seed=seed, size=1, **self._arguments
            )
            self._entry: Mapping[str, Any] = self._dataset[0]

    def reset(self, task: Task) -> Turn:
        self._begin(task.number())
        question = self._prompt.replace("{question}", self._entry["question"])
        return Turn(question, info=self._info())

    def step(self, action: str) -> Turn:
        answer, error = answer_in(action), ""
        try:
            reward = float(self._dataset.score_answer(answer, self._entry))
        except Exception as raised:  # noqa: BLE001  # several scorers raise where an answer is nonsense
            reward, error = 0.0, f"the answer can't be scored: {raised}"
        return Turn(reward=reward, done=True, error=error, info={**self._info(), "answer": answer})

    def _info(self) -> dict[str, Any]:
        reference = self._entry["answer"]
        return {"reference": reference if isinstance(reference, str) else None}


def answer_in(text: str) -> str:
    """What stands in the last pair of `<answer>` tags; all of the text where there is none."""
    tagged = _TAGGED.findall(text)
    return str(tagged[-1] if tagged else text).strip()
