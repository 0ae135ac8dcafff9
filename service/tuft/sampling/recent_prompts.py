"""Prompts read a moment ago: what a new prompt has in common with one is not read again.

Groups of one prompt that come as several requests, few-shot prompts, and the turns of a
conversation begin alike. Only prompts of the same tenant and policy are compared: tenants must
not learn, by its speed, what others ask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tuft.sampling.cache import Prefix

Owner = tuple[str, str | None]
"""Tenant and policy."""

_Key = tuple[Owner, tuple[int, ...]]

# Those that begin alike are compared one by one.
_MAX_PROMPTS = 512
# Shorter beginnings are read again: copying them would cost about as much.
_MIN_COMMON = 8


@dataclass(frozen=True)
class ReadPrompt:
    """A whole prompt: nobody changes `prefix`; `logits` float32 [vocab] are those after it."""

    owner: Owner
    tokens: npt.NDArray[np.int64]
    prefix: Prefix
    logits: Tensor


class RecentPrompts:
    """The most recently used prompts, up to `max_cells` positions in all.

    The logits after a prompt count as the positions that would fit in their place, `cell_bytes` each.
    """

    def __init__(self, max_cells: int, cell_bytes: int) -> None:
        self._max_cells = max_cells
        self._cell_bytes = cell_bytes
        self._cells = 0
        self._prompts: OrderedDict[_Key, ReadPrompt] = OrderedDict()
        self._alike: dict[_Key, dict[_Key, None]] = {}
        """By their owner and first tokens: only these can have a beginning in common."""

    def add(self, owner: Owner, prompt: Sequence[int], prefix: Prefix, logits: Tensor) -> None:
        """Remember a prompt that was read to its end."""
        key = (owner, tuple(prompt))
        self._forget(key)
        read = ReadPrompt(owner, np.asarray(prompt, np.int64), prefix, logits)
        self._prompts[key] = read
        self._alike.setdefault(_start_of(owner, prompt), {})[key] = None
        self._cells += self._size(read)
        self.allow(self._max_cells)

    def allow(self, max_cells: int) -> None:
        """Hold so many positions from now on; what was used least recently goes."""
        self._max_cells = max_cells
        while self._cells > max_cells or len(self._prompts) > _MAX_PROMPTS:
            self._forget(next(iter(self._prompts)))

    def whole(self, owner: Owner, prompt: Sequence[int]) -> ReadPrompt | None:
        """This very prompt."""
        key = (owner, tuple(prompt))
        if key in self._prompts:
            self._prompts.move_to_end(key)
        return self._prompts.get(key)

    def beginning(self, owner: Owner, prompt: Sequence[int]) -> tuple[ReadPrompt, int] | None:
        """The prompt that begins most like this one, and for how many tokens they are equal.

        At least one token of `prompt` is left over.
        """
        best = self._most_alike(owner, prompt)
        if best is not None:
            self._prompts.move_to_end((owner, tuple(best[0].tokens.tolist())))
        return best

    def known(self, owner: Owner, prompt: Sequence[int]) -> int:
        """For how many tokens `whole` or `beginning` would help now; does not count as a use."""
        if (owner, tuple(prompt)) in self._prompts:
            return len(prompt)
        best = self._most_alike(owner, prompt)
        return 0 if best is None else best[1]

    def _most_alike(self, owner: Owner, prompt: Sequence[int]) -> tuple[ReadPrompt, int] | None:
        tokens = np.asarray(prompt[:-1], np.int64)
        best: tuple[ReadPrompt, int] | None = None
        longest = _MIN_COMMON - 1
        for key in self._alike.get(_start_of(owner, prompt), ()):
            read = self._prompts[key]
            if (common := _common(read.tokens, tokens)) > longest:
                best, longest = (read, common), common
        return best

    def drop_policy(self, policy: str) -> None:
        """Forget what was read with a policy's weights."""
        for key in [key for key in self._prompts if key[0][1] == policy]:
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        read = self._prompts.pop(key, None)
        if read is None:
            return
        self._cells -= self._size(read)
        start = _start_of(*key)
        del self._alike[start][key]
        if not self._alike[start]:
            del self._alike[start]

    def _size(self, read: ReadPrompt) -> int:
        return len(read.tokens) + ceil(read.logits.nbytes / self._cell_bytes)


def _start_of(owner: Owner, prompt: Sequence[int]) -> _Key:
    return owner, tuple(prompt[:_MIN_COMMON])


def _common(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """How many leading tokens are equal."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
