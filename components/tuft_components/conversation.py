"""The tokens of one episode: what the policy saw and said, in order.

What was sampled stays as it was sampled. A tokenizer would often give other tokens for the same
text, and a chat template another text for an earlier turn; the policy's log-probabilities would
then belong to a sequence that it never saw. So only what is new is tokenized, and goes behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuft_components.envs.base import Message, Observation
from tuft_components.errors import BadData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAID = "\N{BLACK SQUARE}{}\N{BLACK SQUARE}"
"""Stands for an action in what the template formats: nothing that a template would change or cut."""


class Conversation:
    """Begins empty; `observe` and `say` take turns."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._tools = [dict(tool) for tool in tools]
        self._messages: list[dict[str, str]] = []
        self._tokens: list[int] = []

    def observe(self, observation: Observation) -> tuple[list[int], int]:
        """The whole prompt, and how many of its last tokens are new.

        Raises:
            BadData: the prompt is empty, or the model's chat template refuses the messages.
        """
        before = len(self._tokens)
        if isinstance(observation, str):
            self._tokens += self._encode(observation, first=before == 0)
        else:
            self._tokens += self._new_in_chat(observation)
        if not self._tokens:
            raise BadData("an environment gave an empty prompt")
        return list(self._tokens), len(self._tokens) - before

    def say(self, tokens: Sequence[int]) -> None:
        """The policy's tokens, as they were sampled."""
        self._tokens += tokens
        if self._messages:
            text = _SAID.format(len(self._messages))
            self._messages.append({"role": "assistant", "content": text})

    def _encode(self, text: str, *, first: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=first))

    def _new_in_chat(self, messages: Sequence[Message]) -> list[int]:
        """Of the messages, and of what the template writes around them.

        That begins with how the template ends the action before. A policy that was not cut off
        has ended it by itself: that token is not said twice.
        """
        action = self._messages[-1]["content"] if self._messages else None
        self._messages += [dict(message) for message in messages]
        text = self._formatted()
        if action is None:
            return self._encode(text, first=False)
        _, found, behind = text.rpartition(action)
        if not found:
            raise BadData("the model's chat template left out what the policy said before")
        new = self._encode(behind, first=False)
        ended = new[:1] == self._tokens[-1:] and new[0] in self._tokenizer.all_special_ids
        return new[1:] if ended else new

    def _formatted(self) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                self._messages,
                tools=self._tools or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as error:  # what a template refuses is up to the model; or there is none
            raise BadData(
                f"the tokenizer can't format the environment's messages: {error}"
            ) from error
        return text
