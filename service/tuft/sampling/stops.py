"""When a sequence ends: stop tokens and stop strings.

What ends a sequence is part of it: the stop token, or the tokens up to and including the one
that completes the stop string, are returned with their logprobs (the Tinker API does the
same; the cookbook's renderers look for them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tuft.contracts.operations import SamplingParams


class Detokenizer(Protocol):
    """What stop strings need of a tokenizer."""

    def decode(self, token_ids: list[int]) -> str:
        """Text of the tokens, special tokens included. Unfinished UTF-8 ends in U+FFFD."""
        ...


class StopCondition:
    """Watches one sequence. Only sampled tokens count: the prompt never completes a match."""

    def __init__(self, params: SamplingParams, detokenizer: Detokenizer | None) -> None:
        self._tokens = frozenset(params.stop_tokens)
        self._text = (
            _TextMatch(params.stop_strings, detokenizer)
            if params.stop_strings and detokenizer is not None
            else None
        )

    def reached(self, token: int) -> bool:
        """Take the next sampled token; True where it ends the sequence."""
        # Both are looked at: the text has to see every token.
        in_text = self._text is not None and self._text.reached(token)
        return in_text or token in self._tokens


class _TextMatch:
    def __init__(self, strings: Sequence[str], detokenizer: Detokenizer) -> None:
        self._strings = strings
        self._keep = max(len(string) for string in strings) - 1
        self._detokenizer = detokenizer
        self._ids: list[int] = []
        # Text of _ids[:_shown] is out; decoding starts at _context, which gives the tokenizer
        # enough to the left to place spaces as it does in the whole text.
        self._context = 0
        self._shown = 0
        self._tail = ""

    def reached(self, token: int) -> bool:
        self._ids.append(token)
        window = self._tail + self._new_text()
        self._tail = window[-self._keep :] if self._keep else ""
        return any(string in window for string in self._strings)

    def _new_text(self) -> str:
        old = self._detokenizer.decode(self._ids[self._context : self._shown])
        new = self._detokenizer.decode(self._ids[self._context :])
        if len(new) <= len(old) or new.endswith("\ufffd"):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return new[len(old) :]
