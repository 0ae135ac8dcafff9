"""Observations of Gymnasium's spaces as short texts, and texts as actions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

_MOST_NUMBERS = 256
_MOST_ACTIONS = 100
_HIGHLIGHTED = re.compile(r"\x1b\[(?:\d+;)*4\d(?:;\d+)*m(.*?)\x1b\[0m")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Codec(Protocol):
    """Your own is a class that is made with the Gymnasium environment."""

    def text(self, observation: Any) -> str:
        """What the policy sees."""
        ...

    def action(self, text: str) -> Any:
        """What the environment takes.

        Raises:
            ValueError: the text says none; the message tells the policy what would be right.
        """
        ...

    def actions(self, info: Mapping[str, Any]) -> Sequence[str]:
        """What may be said next, where that can be listed; `info` is what the environment gave."""
        ...

    def hint(self) -> str:
        """What the first observation tells about actions."""
        ...


class TextCodec:
    """For the spaces that have an obvious text.

    Observed: Discrete as its number; Box, MultiDiscrete and MultiBinary as numbers (one line for
    each row); Text as it is; Dict as `key: value`, and Tuple as values, one line each.
    Done: Discrete by its name or its number; MultiDiscrete, MultiBinary and Box as numbers; Text
    as it is.
    """

    def __init__(
        self,
        observed: Any,
        done: Any,
        *,
        actions: Sequence[str] = (),
        names: Sequence[str] = (),
        digits: int = 3,
        show: str = "observation",
    ) -> None:
        """
        Args:
            actions: names of the actions of a Discrete space, in order.
            names: of the numbers that are observed, in order.
            digits: after the point.

        Raises:
            TypeError: a space has no obvious text. ValueError: there are too many numbers, or the
                names are not as many as the space has.
        """
        from gymnasium import spaces

        self._observed, self._done, self._spaces = observed, done, spaces
        self._digits, self._actions, self._names = digits, tuple(actions), tuple(names)
        if show == "observation":
            self._check(observed)
        self._check_actions()

    def text(self, observation: Any) -> str:
        return self._text(self._observed, observation)

    def _text(self, space: Any, value: Any) -> str:
        spaces = self._spaces
        if isinstance(space, spaces.Dict):
            parts = [(key, self._text(space[key], value[key])) for key in space.spaces]
            return "\n".join(f"{key}:{_beside(text)}" for key, text in parts)
        if isinstance(space, spaces.Tuple):
            return "\n".join(map(self._text, space.spaces, value))
        if isinstance(space, (spaces.Text, spaces.Discrete)):
            return str(value)
        return self._numbers(np.asarray(value))

    def _numbers(self, array: np.ndarray[Any, Any]) -> str:
        if self._names and array.ndim == 1:
            pairs = zip(self._names, array, strict=True)
            return ", ".join(f"{name} {self._number(number)}" for name, number in pairs)
        rows = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1)
        return "\n".join(" ".join(map(self._number, row)) for row in rows)

    def _number(self, number: Any) -> str:
        if isinstance(number, np.floating):
            text = f"{float(number):.{self._digits}f}"
            # -0.000 and 0.000 are the same to a reader.
            return text.lstrip("-") if float(text) == 0 else text
        return str(int(number))

    def action(self, text: str) -> Any:
        said, space, spaces = text.strip(), self._done, self._spaces
        if isinstance(space, spaces.Discrete):
            return self._discrete(said)
        if isinstance(space, spaces.Text):
            value: Any = said
        else:
            value = self._vector(said)
        if not space.contains(value):
            raise ValueError(self._right())
        return value

    def _discrete(self, said: str) -> int:
        words = said.splitlines()[0].strip() if said else ""
        lowered = [name.lower() for name in self._actions]
        if words.lower() in lowered:
            return int(self._done.start) + lowered.index(words.lower())
        found = re.match(r"(-?\d{1,9})\b", words)
        if found is None or not self._done.contains(int(found[1])):
            raise ValueError(self._right())
        return int(found[1])

    def _vector(self, said: str) -> np.ndarray[Any, Any]:
        space = self._done
        try:
            numbers = np.array([float(word) for word in re.split(r"[\s,]+", said.strip("[]() "))])
            if not np.issubdtype(space.dtype, np.floating) and (numbers % 1).any():
                raise ValueError(self._right())
            return numbers.reshape(space.shape).astype(space.dtype)
        except (ValueError, OverflowError) as error:
            raise ValueError(self._right()) from error

    def actions(self, info: Mapping[str, Any]) -> Sequence[str]:
        space = self._done
        if not isinstance(space, self._spaces.Discrete) or space.n > _MOST_ACTIONS:
            return ()
        names = self._actions or [str(int(space.start) + number) for number in range(space.n)]
        mask = info.get("action_mask")  # Gymnasium's own word for what is allowed now
        if mask is None:
            return tuple(names)
        return tuple(name for name, allowed in zip(names, mask, strict=True) if allowed)

    def hint(self) -> str:
        return self._right().capitalize() + "."

    def _right(self) -> str:
        space, spaces = self._done, self._spaces
        if isinstance(space, spaces.Discrete):
            if self._actions:
                return f"say {_or(self._actions)}"
            return f"say a number from {space.start} to {space.start + space.n - 1}"
        if isinstance(space, spaces.Text):
            return f"say a text of {space.min_length} to {space.max_length} characters"
        if isinstance(space, spaces.Box):
            low, high = self._number(space.low.min()), self._number(space.high.max())
            many = "a number" if space.low.size == 1 else f"{space.low.size} numbers"
            return f"say {many} from {low} to {high}"
        if isinstance(space, spaces.MultiBinary):
            return f"say {int(np.prod(space.shape))} numbers, each 0 or 1"
        first, last = space.start.ravel(), (space.start + space.nvec - 1).ravel()
        ranges = [f"{low} to {high}" for low, high in zip(first, last, strict=True)]
        return f"say {len(ranges)} numbers: {', '.join(ranges)}"

    def _check(self, space: Any) -> None:
        spaces = self._spaces
        if isinstance(space, spaces.Dict):
            for part in space.spaces.values():
                self._check(part)
        elif isinstance(space, spaces.Tuple):
            for part in space.spaces:
                self._check(part)
        elif isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
            count = int(np.prod(space.shape))
            if count > _MOST_NUMBERS:
                raise ValueError(
                    f"it observes {count} numbers, more than {_MOST_NUMBERS}: give a `codec`"
                )
            if self._names and space is self._observed and len(self._names) != count:
                raise ValueError(f"it observes {count} numbers: {len(self._names)} names are given")
        elif not isinstance(space, (spaces.Discrete, spaces.Text)):
            raise TypeError(f"what it observes has no obvious text ({space}): give a `codec`")

    def _check_actions(self) -> None:
        space, spaces = self._done, self._spaces
        known = (spaces.Discrete, spaces.Text, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
        if not isinstance(space, known):
            raise TypeError(f"its actions have no obvious text ({space}): give a `codec`")
        if not self._actions:
            return
        if not isinstance(space, spaces.Discrete) or space.n != len(self._actions):
            raise ValueError(f"{len(self._actions)} names are given for the actions of {space}")


def _beside(text: str) -> str:
    return f"\n{text}" if "\n" in text else f" {text}"


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def plain(rendering: str) -> str:
    """A rendering for terminals without its colours.

    What is highlighted (where the agent stands, say) is in square brackets instead.
    """
    return _COLOUR.sub("", _HIGHLIGHTED.sub(r"[\1]", rendering))
