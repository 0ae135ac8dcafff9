"""From a row to tokens, and which of them are trained on.

A row has `messages` (a conversation), else `prompt` and `completion` (two texts, or two lists of
messages), else `text`. In a conversation what is trained on are the tokens that the model would
have to sample: of each assistant message, what the chat template puts behind the prompt for it,
up to the token that ends the turn.

Source of the prefix rule: a conversation is trained as it is sampled, token by token, only where
the prompt for each answer is the beginning of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tuft_components.errors import BadConfiguration, BadData
from tuft_components.sft.rows import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Encoded:
    """`trained` says for each token whether it is a target; the first one never is."""

    tokens: list[int]
    trained: list[bool]


class Encoder:
    """Encodes rows with a tokenizer.

    Args:
        turns: train on every assistant message of a conversation, or on the last one only.
        append_eos: end completions and texts with the tokenizer's end-of-text token.
        template_args: variables for the chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        turns: Literal["all", "last"] = "all",
        append_eos: bool = True,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._turns = turns
        self._template_args = dict(template_args or {})
        eos = tokenizer.eos_token_id
        self._eos = [int(eos)] if append_eos and eos is not None else []
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(n for n, token in added if token.special)}

    def encode(self, fields: Mapping[str, Any]) -> Encoded:
        """Raises:
        RowError: the row can't be trained on.
        BadData: no row can, with this tokenizer's chat template.
        """
        found = {name: value for name, value in fields.items() if value is not None}
        if "messages" in found:
            encoded = self._conversation(_messages(found, "messages"), found.get("tools"))
        elif "prompt" in found or "completion" in found:
            encoded = self._prompt_and_completion(found)
        elif "text" in found:
            tokens = self._ended(self._tokenizer.encode(_text(found, "text")))
            encoded = Encoded(tokens, [False, *([True] * (len(tokens) - 1))])
        else:
            names = ", ".join(sorted(map(str, fields))[:10]) or "none"
            raise RowError(f"it has no messages, prompt and completion, or text; it has: {names}")
        if not any(encoded.trained):
            raise RowError("it has no token to train on")
        return encoded

    def _prompt_and_completion(self, found: Mapping[str, Any]) -> Encoded:
        for name in ("prompt", "completion"):
            if name not in found:
                raise RowError(f"it has no {name}")
        if not isinstance(found["prompt"], str) and not isinstance(found["completion"], str):
            prompt, completion = _messages(found, "prompt"), _messages(found, "completion")
            return self._conversation([*prompt, *completion], found.get("tools"), len(prompt))
        prompt_tokens = list(self._tokenizer.encode(_text(found, "prompt")))
        if not prompt_tokens:
            raise RowError("its prompt is empty: the first token predicts nothing")
        completion_tokens = self._ended(
            self._tokenizer.encode(_text(found, "completion"), add_special_tokens=False)
        )
        return Encoded(
            [*prompt_tokens, *completion_tokens],
            [*([False] * len(prompt_tokens)), *([True] * len(completion_tokens))],
        )

    def _conversation(self, messages: list[Message], tools: Any, begin: int = 0) -> Encoded:
        """`begin`: the first message that may be trained on."""
        answers = [
            n for n, message in enumerate(messages) if n >= begin and message["role"] == "assistant"
        ]
        if not answers:
            raise RowError("it has no message of the assistant to train on")
        messages = messages[: answers[-1] + 1]  # nothing is learnt from what comes after
        whole = self._tokens(messages, tools)
        trained = [False] * len(whole)
        for number in answers if self._turns == "all" else answers[-1:]:
            prompt = self._tokens(messages[:number], tools, prompt=True)
            said = self._tokens(messages[: number + 1], tools)
            if not prompt or said[: len(prompt)] != prompt or whole[: len(said)] != said:
                self._refuse(messages, tools, number)
            for position in range(len(prompt), self._end_of_turn(said, len(prompt))):
                trained[position] = True
        return Encoded(whole, trained)

    def _end_of_turn(self, said: Sequence[int], begin: int) -> int:
        """Behind the token that ends the turn: a line break that the template puts after it is
        never sampled."""
        for end in range(len(said), begin, -1):
            if said[end - 1] in self._special:
                rest = self._tokenizer.decode(list(said[end:]))
                return end if not rest.strip() else len(said)
        return len(said)

    def _refuse(self, messages: list[Message], tools: Any, number: int) -> None:
        """Tell a template that can't be trained with from a row whose tokens run together."""
        prompt = self._rendered(messages[:number], tools, prompt=True)
        said = self._rendered(messages[: number + 1], tools)
        whole = self._rendered(messages, tools)
        if not prompt:
            raise RowError("it begins with the assistant: the chat template has no prompt for that")
        if not said.startswith(prompt):
            raise BadData(
                "the tokenizer's chat template can't be trained with: what it gives for an answer "
                "does not begin with its prompt for it, so that no one can tell which tokens are "
                "the answer's. Use rows of prompt and completion texts"
            )
        if not whole.startswith(said):
            raise BadData(
                f"the tokenizer's chat template writes message {number + 1} in another way once "
                "messages follow it (templates that drop earlier reasoning do), so that a "
                "conversation is not sampled as it would be trained. Set turns=last, which trains "
                "on the last answer only, or split each conversation into rows of one answer"
            )
        raise RowError(
            f"the tokens of message {number + 1} run together with those around it: it begins or "
            "ends with characters that the tokenizer joins with the chat template's"
        )

    def _tokens(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> list[int]:
        if not messages:
            return []
        tokens: list[int] = self._apply(messages, tools, prompt, tokenize=True, return_dict=False)
        return list(tokens)

    def _rendered(self, messages: list[Message], tools: Any, *, prompt: bool = False) -> str:
        return str(self._apply(messages, tools, prompt, tokenize=False)) if messages else ""

    def _apply(self, messages: list[Message], tools: Any, prompt: bool, **how: Any) -> Any:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise BadData(
                "the model's tokenizer has no chat template, which rows of messages need: give "
                "rows of prompt and completion, or of text"
            )
        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=tools or None,
                add_generation_prompt=prompt,
                **self._template_args,
                **how,
            )
        except TemplateError as error:
            raise RowError(f"the chat template refused it: {error}") from error
        except TypeError as error:
            if self._template_args:
                raise BadConfiguration(f"template_args do not fit: {error}") from error
            raise RowError(f"the chat template can't take it: {error}") from error

    def _ended(self, tokens: Sequence[int]) -> list[int]:
        found = list(tokens)
        return found if found and found[-1:] == self._eos else [*found, *self._eos]


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found[name]
    if not isinstance(value, str):
        raise RowError(f"its {name} is a {type(value).__name__}, not a text")
    return value


def _messages(found: Mapping[str, Any], name: str) -> list[Message]:
    value = found[name]
    if not isinstance(value, list) or not value:
        raise RowError(f"its {name} is not a list of messages")
    messages: list[Message] = []
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
            raise RowError(f"message {number} of its {name} has no role")
        # Parquet has a value for every field of every message.
        message = {key: item for key, item in entry.items() if item is not None}
        if not isinstance(message.get("content", "" if "tool_calls" in message else None), str):
            raise RowError(f"message {number} of its {name} has no content, or it is not a text")
        messages.append({"content": "", **message})
    return messages
