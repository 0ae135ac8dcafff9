"""Tool calls in texts, and the light environment with tools."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.envs.walks import messages_of, play, walk, walk_elsewhere, won
from tests.helpers.tiny_model import build_tokenizer
from tuft_components.envs import make_environment
from tuft_components.envs.base import Task, Turn
from tuft_components.envs.shopping_list import ShoppingList, calculated
from tuft_components.envs.tool_calls import Said, ToolCall, parse_tool_calls, with_calls_in_tags
from tuft_components.envs.with_tools import schema_of
from tuft_components.episodes import EpisodeSet, Limits, Sample
from tuft_components.errors import BadConfiguration
from tuft_components.playing import play as run_episodes

TOOLS = ShoppingList().tools
PEN = ToolCall("price", {"item": "pen"})
SUM = ToolCall("calculate", {"expression": "1+2"})
PEN_JSON = '{"name": "price", "arguments": {"item": "pen"}}'
SUM_JSON = '{"name": "calculate", "arguments": {"expression": "1+2"}}'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"<tool_call>\n{PEN_JSON}\n</tool_call>", "", [PEN]),
        (f"Look.\n<tool_call>{PEN_JSON}</tool_call>\n<tool_call>{SUM_JSON}", "Look.", [PEN, SUM]),
        (f"<tool_call>[{PEN_JSON}, {SUM_JSON}]</tool_call>", "", [PEN, SUM]),
        (
            "<tool_call><function=price>\n<parameter=item>\npen\n</parameter></function></tool_call>",
            "",
            [PEN],
        ),
        (f"[TOOL_CALLS][{PEN_JSON}]", "", [PEN]),
        ('[TOOL_CALLS]price[ARGS]{"item": "pen"}', "", [PEN]),
        (f'Hm[TOOL_CALLS]price{{"item": "pen"}}[TOOL_CALLS]{SUM_JSON}', "Hm", [PEN, SUM]),
        (f"[{PEN_JSON}]", "", [PEN]),  # Mistral, without its special token
        ('price{"item": "pen"}', "", [PEN]),
        ('{"name": "price", "parameters": {"item": "pen"}}', "", [PEN]),
        ('<|python_tag|>{"name": "price", "parameters": {"item": "pen"}}', "", [PEN]),
        ('{"type": "function", "function": {"name": "price", "arguments": "{\\"item\\": \\"pen\\"}"}}', "", [PEN]),
        ("It is 12.", "It is 12.", []),
        ('{"total": 12}', '{"total": 12}', []),
        ("[1, 2]", "[1, 2]", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_calls_in_the_formats_of_chat_templates(
    text: str, content: str, calls: list[ToolCall]
) -> None:
    said = parse_tool_calls(text, TOOLS)
    assert (said.content, list(said.calls), said.error) == (content, calls, "")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ('{"name": "price", "arguments": {"item": "pen"', "the tool call is not valid JSON"),
        ("[" * 100_000, "the tool call is not valid JSON"),
        ('{"name": "steal", "arguments": {}}', "no tool 'steal'; there are: price, calculate"),
        ('{"name": "price", "arguments": {}}', "the call of price lacks item"),
        ('{"name": "price", "arguments": {"item": 3}}', "item of price is 3: .* of type string"),
        ('{"name": "price", "arguments": {"item": "x", "y": 1}}', "price takes no 'y'; it takes: item"),
        ('{"name": "price", "arguments": [1]}', "a tool call is"),
        ("12", "a tool call is"),
        ('{"name": 3}', "a tool call is"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_call_is_told(call: str, error: str) -> None:
    said = parse_tool_calls(f"<tool_call>{PEN_JSON}</tool_call><tool_call>{call}", TOOLS)
    assert re.search(error, said.error)
    assert not said.calls  # nor is the good one done


def test_types_of_arguments() -> None:
    def turn(count: int, share: float, up: bool, name: str = "x") -> None:
        """Turns.

        count: how often
        """

    tool = schema_of(turn)
    assert tool["function"]["description"] == "Turns."
    parameters = tool["function"]["parameters"]
    assert parameters["required"] == ["count", "share", "up"]
    assert parameters["properties"]["count"] == {"type": "integer", "description": "how often"}

    def error(**arguments: Any) -> str:
        call = json.dumps({"name": "turn", "arguments": arguments})
        return parse_tool_calls(call, [tool]).error

    assert error(count=1, share=1, up=True) == ""
    assert "count of turn" in error(count=True, share=1, up=True)
    assert "count of turn" in error(count=1.5, share=1, up=True)
    assert "up of turn" in error(count=1, share=1.5, up=1)
    text = (
        "<tool_call><function=turn><parameter=count>3</parameter>"
        "<parameter=share>0.5</parameter><parameter=up>true</parameter></function></tool_call>"
    )
    (call,) = parse_tool_calls(text, [tool]).calls
    assert call.arguments == {"count": 3, "share": 0.5, "up": True}


class Shopper:
    """Asks for all prices at once, then for the sum, then says it."""

    def __init__(self) -> None:
        self.step = 0
        self.counts: dict[str, int] = {}

    def __call__(self, turn: Turn) -> str:
        self.step += 1
        last = messages_of(turn)[-1]
        if self.step == 1:
            found = re.findall(r"(\d+) x (\w+)", last["content"])
            self.counts = {item: int(count) for count, item in found}
            return "".join(_tagged("price", item=item) for item in self.counts)
        if self.step == 2:
            assert all(each["role"] == "tool" for each in messages_of(turn))
            prices = [each["content"] for each in messages_of(turn)]
            products = zip(prices, self.counts.values(), strict=True)
            return _tagged("calculate", expression=" + ".join(f"{a} * {b}" for a, b in products))
        return f"Together {last['content']}."


def _tagged(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


async def test_who_uses_the_tools_wins() -> None:
    for index in range(10):
        family = make_environment("shopping_list", {"items": 3})
        assert await won(family, Shopper(), Task("eval", 0, index)) == 1


async def test_guessing_wins_nothing() -> None:
    for said in ("100", "no idea", "", '{"total": 5}', "\0"):
        assert await won(make_environment("shopping_list", {}), lambda _, said=said: said) == 0  # type: ignore[misc]


async def test_a_wrong_call_changes_nothing() -> None:
    environment = ShoppingList()
    first = await environment.reset(Task("train", 0, 0))
    for wrong in ("<tool_call>{", _tagged("price"), _tagged("price", item="moon"), _tagged("x")):
        turn = await environment.step(wrong)
        assert turn.error
        assert not turn.done
        (message,) = messages_of(turn)
        assert message["role"] == "tool"
        assert "error" in json.loads(message["content"])
    assert (await environment.step(str(first.info["reference"]))).reward == 1


@pytest.mark.parametrize(
    ("expression", "value"), [("2 * (3 + 4) - 1", 13), ("-5*-5", 25), (" 7 ", 7)]
)
def test_calculations(expression: str, value: int) -> None:
    assert calculated(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "2 ** 99", "1/0", "__import__('os')", "1.5", "True", "x", "(" * 150, "1" * 201, "\0"],
)
def test_nothing_else_is_calculated(expression: str) -> None:
    with pytest.raises(ValueError, match="give whole numbers"):
        calculated(expression)


def test_the_same_in_another_process_and_another_for_another_task() -> None:
    actions = [_tagged("price", item="pen"), "nothing", "12"]
    here = walk("shopping_list", {}, Task("train", 0, 4), actions)
    assert here == walk_elsewhere("shopping_list", {}, Task("train", 0, 4), actions)
    tasks = [Task(split, 0, index) for split in ("train", "eval") for index in range(9)]
    assert len({str(walk("shopping_list", {}, task, [])) for task in tasks}) == 18


async def test_the_list_is_bounded() -> None:
    with pytest.raises(BadConfiguration, match="items must be 1 to 10"):
        make_environment("shopping_list", {"items": 11})
    environment = await make_environment("shopping_list", {}).open()
    with pytest.raises(ValueError, match="no split 'x'"):
        await play(environment, Task("x", 0, 0), lambda _: "")


def test_a_tokenizers_own_format_is_written_as_tags() -> None:
    tokenizer = build_tokenizer()
    text = 'Look. CALL price WITH {"item": "pen"} DONE<|end|>'
    tokens = tokenizer.encode(text)
    assert with_calls_in_tags(tokenizer, [], tokens, TOOLS) == text.removesuffix("<|end|>")
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|start|>assistant\n",
        "fields": {
            "tool_calls": {
                "open_pattern": r"\s*CALL (?P<name>\w+) WITH ",
                "close": " DONE",
                "repeats": True,
                "content": "json",
                "transform": {
                    "type": "function",
                    "function": {"name": "{name}", "arguments": "{content}"},
                },
            },
            "content": {"close": "<|end|>", "content": "text"},
        },
    }
    said = parse_tool_calls(with_calls_in_tags(tokenizer, [], tokens, TOOLS), TOOLS)
    assert said == Said("Look.", [PEN])
    broken = tokenizer.encode("Look. CALL price WITH {{ DONE<|end|>")
    assert "CALL price WITH {{ DONE" in with_calls_in_tags(tokenizer, [], broken, TOOLS)


def test_marks_that_are_special_tokens_stay() -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    tokens = tokenizer.encode('[TOOL_CALLS]price[ARGS]{"item": "pen"}<|end|>')
    text = with_calls_in_tags(tokenizer, [], tokens, TOOLS)
    assert text.startswith("[TOOL_CALLS]")
    assert parse_tool_calls(text, TOOLS).calls == [PEN]


class _Caller:
    """A policy that asks for a price, in Mistral's words, and then answers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.prompts: list[str] = []

    async def sample(
        self, prompt: Sequence[int], count: int, *, seed: int, stop: Sequence[str]
    ) -> list[Sample]:
        self.prompts.append(self.tokenizer.decode(list(prompt)))
        call = '[TOOL_CALLS]price[ARGS]{"item": "pen"}<|end|>'
        tokens = self.tokenizer.encode("12<|end|>" if "<|start|>tool" in self.prompts[-1] else call)
        return [Sample(tokens, [0.0] * len(tokens), "stop")] * count


async def test_a_rollout_calls_tools_in_the_models_own_format() -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    policy = _Caller(tokenizer)
    wanted = EpisodeSet(
        env="shopping_list", split="train", seed=0, first_index=0, groups=1, group_size=1,
        iteration=0, policy_name="p", limits=Limits(),
    )  # fmt: skip
    outcome = await run_episodes(policy, make_environment("shopping_list", {}), tokenizer, wanted)
    assert [(t.error, t.end) for t in outcome.transitions] == [("", ""), ("", "done")]
    assert re.search(r"<\|start\|>tool\n\d+<\|end\|>", policy.prompts[1])
