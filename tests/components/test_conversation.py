"""Tokens of an episode: what was sampled stays, only what is new is tokenized."""

from __future__ import annotations

import pytest

from tests.helpers.tiny_model import build_tokenizer
from tuft_components.conversation import Conversation
from tuft_components.errors import BadData

TOKENIZER = build_tokenizer()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_text_goes_behind_the_tokens_that_were_sampled() -> None:
    talk = Conversation(TOKENIZER)
    first, new = talk.observe("the cat")
    assert new == len(first)
    # Not how the tokenizer would write it: letter by letter.
    sampled = [token for letter in " sat" for token in TOKENIZER.encode(letter)]
    assert sampled != TOKENIZER.encode(" sat")
    talk.say(sampled)
    prompt, new = talk.observe(" down")
    assert prompt == [*first, *sampled, *TOKENIZER.encode(" down")]
    assert new == len(TOKENIZER.encode(" down"))


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut off"])
def test_messages_go_behind_the_tokens_that_were_sampled(ended: bool) -> None:
    talk = Conversation(TOKENIZER)
    first, _ = talk.observe([{"role": "system", "content": "Be brief."}, *user("one")])
    end = TOKENIZER.encode("<|end|>")
    assert len(end) == 1
    sampled = [token for letter in " 1 " for token in TOKENIZER.encode(letter)]
    talk.say([*sampled, *(end if ended else [])])
    prompt, new = talk.observe(user("two"))
    assert prompt[: len(first) + len(sampled)] == [*first, *sampled]
    assert TOKENIZER.decode(prompt) == (
        "<|start|>system\nBe brief.<|end|>\n<|start|>user\none<|end|>\n<|start|>assistant\n 1 "
        "<|end|>\n<|start|>user\ntwo<|end|>\n<|start|>assistant\n"
    )
    assert new == len(prompt) - len(first) - len(sampled) - ended


def test_a_template_that_changes_what_was_said_changes_no_token() -> None:
    """Some strip white space, or the thoughts of earlier turns."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content | trim | upper }};{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    talk = Conversation(tokenizer)
    talk.observe(user("one"))
    sampled = tokenizer.encode("  maybe  ")
    talk.say(sampled)
    prompt, _ = talk.observe(user("two"))
    assert tokenizer.decode(prompt) == "[user]ONE;[assistant]  maybe  ;[user]TWO;[assistant]"


def test_a_template_that_drops_what_was_said_is_told() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}"
    talk = Conversation(tokenizer)
    talk.observe(user("one"))
    talk.say(tokenizer.encode("x"))
    with pytest.raises(BadData, match="left out what the policy said"):
        talk.observe(user("two"))


def test_tools_go_to_the_template() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ tools[0].function.name }}:{{ messages[0].content }}"
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    prompt, _ = Conversation(tokenizer, [tool]).observe(user("up"))
    assert tokenizer.decode(prompt) == "look:up"


@pytest.mark.parametrize("observation", ["", []])
def test_an_empty_prompt_is_bad_data(observation: str | list[dict[str, str]]) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = ""
    with pytest.raises(BadData):
        Conversation(tokenizer).observe(observation)
