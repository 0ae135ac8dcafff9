"""Nouns of a product's name, which WebShop's reward compares to tell whether two are of one type.

The original asks spaCy's model `en_core_web_sm` for them. That is `nouns="spacy"`, where the user has
the model. Without it, `nouns="tokens"`: all words but those of a stop list, numbers and measures. The
two differ where a name has adjectives or verbs that the list does not know: these count as nouns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tuft_components.envs.webshop.colours import words_in
from tuft_components.errors import BadConfiguration

Nouns = Callable[[str], Sequence[str]]
"""In lower case, in order; a word that is said twice is there twice."""

MODEL = "en_core_web_sm"
_WORD = re.compile(r"[a-z0-9]+(?:['.][a-z0-9]+)*")
_MEASURE = re.compile(r"[0-9.]+[a-z]{0,3}")
_LONGEST = 20_000  # characters of a name that are looked at


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    return frozenset(words_in("stop_words.txt"))


@lru_cache(maxsize=50_000)
def token_nouns(name: str) -> Sequence[str]:
    stop = _stop_words()
    words = _WORD.findall(name[:_LONGEST].lower())
    return tuple(word for word in words if word not in stop and not _MEASURE.fullmatch(word))


def nouns_by(how: str) -> Nouns:
    """Raises:
    ValueError: `how` is neither tokens nor spacy. BadConfiguration: there is no spaCy, or no model.
    """
    if how == "tokens":
        return token_nouns
    if how != "spacy":
        raise ValueError(f"nouns is {how!r}; there are: tokens, spacy")
    try:
        import spacy

        model = spacy.load(MODEL)
    except (ImportError, OSError) as error:
        raise BadConfiguration(
            f"nouns=spacy needs spaCy and its model: {error}. To install: pip install spacy and "
            f"python -m spacy download {MODEL}; or leave it at nouns=tokens"
        ) from error
    return _by_model(model)


def _by_model(model: Any) -> Nouns:
    @lru_cache(maxsize=50_000)
    def spacy_nouns(name: str) -> Sequence[str]:
        words = model(name[:_LONGEST])
        return tuple(word.text.lower() for word in words if word.pos_ in ("NOUN", "PROPN"))

    return spacy_nouns
