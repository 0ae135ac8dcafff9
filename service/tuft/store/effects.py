"""Effects: writes of other parts of the store that happen together with a completion."""

from __future__ import annotations

from collections.abc import Sequence

from tuft.store.connection import Arg
from tuft.store.values import Effect

_TYPES = {"SET": "string", "HSET": "hash", "ZADD": "zset"}


def flatten(effects: Sequence[Effect]) -> list[Arg]:
    """As script arguments: their number, then each as its key's type, length and words.

    A script that fails half-way is not rolled back, so what could fail is checked before:
    here the command and its shape, in the script the type of the key.

    Raises:
        ValueError: not one of the commands, or not a key of the store.
    """
    flat: list[Arg] = [len(effects)]
    for effect in effects:
        command = effect[0]
        kind = _TYPES.get(command) if isinstance(command, str) else None
        pairs = len(effect) - 2
        fits = pairs == 1 if kind == "string" else pairs >= 2 and pairs % 2 == 0
        if kind is None or not fits or not str(effect[1]).startswith("tuft:"):
            raise ValueError(f"not an effect: {effect[:2]!r} with {len(effect)} words")
        flat += [kind, len(effect), *effect]
    return flat
