"""`cookbook:MODULE:BUILDER`, with environments as tinker-cookbook's users write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip(
    "tinker_cookbook",
    reason="tinker_cookbook is not installed: docs/environments/cookbook.md says how",
)

import tinker
from tinker_cookbook.renderers import get_renderer
from tinker_cookbook.rl.message_env import EnvFromMessageEnv, MessageEnv, MessageStepResult
from tinker_cookbook.rl.problem_env import ProblemEnv, ProblemGroupBuilder
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, RLDataset, StepResult

from tests.envs.walks import messages_of, play, won
from tests.helpers.tiny_model import build_tokenizer
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task, Turn
from tuft_components.errors import BadConfiguration, BadData

TOKENIZER = build_tokenizer()
HERE = "cookbook:tests.envs.test_cookbook"


class Countdown(MessageEnv):  # type: ignore[misc]
    """Say the numbers downwards; keeps its history, as the cookbook's own do."""

    def __init__(self, number: int = 3, *, start: int = 3) -> None:
        self.history: list[dict[str, Any]] = []
        self.left = start
        self.number = number

    async def initial_observation(self) -> list[dict[str, Any]]:
        self.history = [{"role": "user", "content": f"{self.number}: count from {self.left}"}]
        return self.history

    async def step(self, message: dict[str, Any]) -> MessageStepResult:
        self.history.append(message)
        right = message["content"] == str(self.left)
        self.left -= 1
        answer = [{"type": "text", "text": "go on"}]
        done = not right or self.left == 0
        if not done:
            self.history.append({"role": "user", "content": answer})
        return MessageStepResult(
            reward=float(right and done),
            episode_done=done,
            next_messages=self.history,
            metrics={"right": float(right)},
        )


class Forgetful(Countdown):
    async def step(self, message: dict[str, Any]) -> MessageStepResult:
        self.history = []
        return MessageStepResult(reward=0.0, episode_done=False, next_messages=[])


class Renderer:
    """What the cookbook's renderers have, for the tiny tokenizer."""

    def __init__(self) -> None:
        self.tokenizer = TOKENIZER

    def get_stop_sequences(self) -> list[int]:
        return [0]

    def build_generation_prompt(self, messages: Sequence[Any]) -> tinker.ModelInput:
        text = "".join(f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in messages)
        return tinker.ModelInput.from_ints(self.tokenizer.encode(f"{text}<|start|>assistant\n"))


class Echo(Env):  # type: ignore[misc]
    """Tokens in, tokens out: ends with reward 1 when it hears `fox`."""

    def __init__(self) -> None:
        self.renderer = Renderer()
        self.tokens = self.renderer.tokenizer.encode("dog:")

    async def initial_observation(self) -> tuple[tinker.ModelInput, list[int]]:
        return tinker.ModelInput.from_ints(self.tokens), [0]

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        assert action[-1] == 0
        said = self.renderer.tokenizer.decode(action[:-1])
        self.tokens = [*self.tokens, *action, *self.renderer.tokenizer.encode(" again:")]
        return StepResult(
            reward=float(said == " fox"),
            episode_done=said == " fox",
            next_observation=tinker.ModelInput.from_ints(self.tokens),
            next_stop_condition=[0],
        )


class Builder(EnvGroupBuilder):  # type: ignore[misc]
    cleaned = 0

    def __init__(self, number: int = 3) -> None:
        self.number = number

    async def make_envs(self) -> list[Env]:
        return [EnvFromMessageEnv(Renderer(), Countdown(self.number)) for _ in range(4)]

    async def cleanup(self) -> None:
        type(self).cleaned += 1


class Comparing(Builder):
    async def compute_group_rewards(self, trajectory_group: Any, env_group: Any) -> Any:
        return [(1.0, {}) for _ in trajectory_group]


class Sum(ProblemEnv):  # type: ignore[misc]
    """As the cookbook's arithmetic, with one of its renderers."""

    def get_question(self) -> str:
        return "1 + 2"

    def check_answer(self, sample_str: str) -> bool:
        return sample_str.strip() == "3"

    def check_format(self, sample_str: str) -> bool:
        return True

    def get_reference_answer(self) -> str:
        return "3"


def problems() -> ProblemGroupBuilder:
    return ProblemGroupBuilder(
        env_thunk=lambda: Sum(get_renderer("role_colon", TOKENIZER)), num_envs=2
    )


class Rows(RLDataset):  # type: ignore[misc]
    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        return [Builder(10 * index + place) for place in range(2)]

    def __len__(self) -> int:
        return 3


def counting(turn: Turn) -> str:
    """Right play: the user says where to begin, then one less each time."""
    first = messages_of(turn)[0]["content"]
    counting.next = int(first[-1]) if "count" in first else counting.next - 1  # type: ignore[attr-defined]
    return str(counting.next)  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["Countdown", "Builder", "Rows"])
async def test_who_counts_right_wins(what: str) -> None:
    assert await won(make_environment(f"{HERE}:{what}", {}), counting) == 1
    assert await won(make_environment(f"{HERE}:{what}", {}), lambda _: "no") == 0


async def test_only_new_messages_are_told() -> None:
    environment = await make_environment(f"{HERE}:Countdown", {"args": {"start": 2}}).open()
    turns = await play(environment, Task("train", 0, 5), counting)
    number = Task("train", 0, 5).number()
    assert [turn.observation for turn in turns] == [
        [{"role": "user", "content": f"{number}: count from 2"}],
        [{"role": "user", "content": "go on"}],
        [],
    ]
    assert turns[1].info == {"right": 1.0}
    await environment.close()


async def test_a_dataset_gives_its_builders_by_index_from_the_beginning_again() -> None:
    environment = await make_environment(f"{HERE}:Rows", {}).open()
    begun = [
        str((await environment.reset(Task("train", 0, n))).observation) for n in (0, 1, 2, 5, 6)
    ]
    assert [text.split("'content': '")[1].partition(":")[0] for text in begun] == [
        "0",
        "1",
        "10",
        "21",
        "0",
    ]
    await environment.close()


async def test_builders_are_cleaned_up() -> None:
    before = Builder.cleaned
    environment = await make_environment(f"{HERE}:Builder", {}).open()
    await environment.reset(Task("train", 0, 0))
    await environment.reset(Task("train", 0, 1))
    await environment.close()
    assert Builder.cleaned == before + 2


async def test_an_environment_of_tokens_is_played_with_text() -> None:
    environment = await make_environment(f"{HERE}:Echo", {}).open()
    said = iter([" cat", " dog", " fox"])
    turns = await play(environment, Task("train", 0, 0), lambda _: next(said))
    assert [turn.observation for turn in turns] == [
        "dog:",
        "<|end|> again:",
        "<|end|> again:",
        "",
    ]
    assert [turn.reward for turn in turns] == [0, 0, 0, 1]
    await environment.close()


async def test_the_cookbooks_own_problems() -> None:
    assert await won(make_environment(f"{HERE}:problems", {}), lambda _: "3") > 0.9
    assert await won(make_environment(f"{HERE}:problems", {}), lambda _: "4") <= 0


async def test_rewards_of_a_whole_group_are_refused() -> None:
    environment = await make_environment(f"{HERE}:Comparing", {}).open()
    with pytest.raises(ValueError, match="Comparing rewards by the whole group"):
        await environment.reset(Task("train", 0, 0))
    allowed = make_environment(f"{HERE}:Comparing", {"group_rewards": "leave_out"})
    assert await won(allowed, counting) == 1


async def test_a_shortened_conversation_is_refused() -> None:
    environment = await make_environment(f"{HERE}:Forgetful", {}).open()
    await environment.reset(Task("train", 0, 0))
    with pytest.raises(BadData, match="shortened the conversation"):
        await environment.step("3")


@pytest.mark.parametrize(
    ("path", "args", "says"),
    [
        ("nowhere:X", {}, "can't import nowhere"),
        ("tests.envs.test_cookbook:nothing", {}, "has no 'nothing'"),
        ("tests.envs.test_cookbook:Rows", {"group_rewards": "x"}, "group_rewards must be one of"),
    ],
)
def test_what_can_not_be_made_is_told(path: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfiguration, match=says):
        make_environment(f"cookbook:{path}", args)


async def test_what_is_no_environment_is_told() -> None:
    environment = await make_environment(f"{HERE}:Renderer", {}).open()
    with pytest.raises(TypeError, match="gave Renderer: it must be a MessageEnv"):
        await environment.reset(Task("train", 0, 0))
