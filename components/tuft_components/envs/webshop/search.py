"""Search in a catalogue: BM25 as Lucene has it, in an index of our own.

The original searches with Lucene through pyserini (Java): the same formula and parameters (k1 0.9, b
0.4), the same stop words and Porter's stemmer here; how a text is cut into words is alike, not equal.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from random import Random

import numpy as np
import snowballstemmer

from tuft_components.envs.webshop.catalogue import Product

HITS = 50
_K1, _B = 0.9, 0.4
_LONGEST = 64  # words of a query that count
_WORD = re.compile(r"[^\W_]+(?:[.'][^\W_]+)*")
_STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    ]
)
_porter = snowballstemmer.stemmer("porter")


@lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    stem: str = _porter.stemWord(word)
    return stem


def words_of(text: str) -> list[str]:
    """As they are indexed."""
    words = (word.removesuffix("'s") for word in _WORD.findall(text.lower()))
    return [_stem(word) for word in words if word not in _STOP]


class Bm25:
    """An index of texts; hits are their numbers, best first, and by number where equal."""

    def __init__(self, texts: Sequence[str]) -> None:
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        lengths = np.zeros(len(texts))
        for number, text in enumerate(texts):
            counts = Counter(words_of(text))
            lengths[number] = sum(counts.values())
            for word, count in counts.items():
                found[word].append((number, count))
        mean = max(1.0, float(lengths.mean())) if len(texts) else 1.0
        norm = _K1 * (1 - _B + _B * lengths / mean)
        self._size = len(texts)
        self._entries: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, pairs in found.items():
            numbers, counts_ = np.array(pairs).T
            idf = math.log(1 + (self._size - len(pairs) + 0.5) / (len(pairs) + 0.5))
            self._entries[word] = numbers, idf * counts_ / (counts_ + norm[numbers])

    def search(self, query: str, count: int = HITS) -> list[int]:
        """Such as have a word of the query."""
        scores = np.zeros(self._size)
        for word in words_of(query)[:_LONGEST]:
            if word in self._entries:
                numbers, values = self._entries[word]
                scores[numbers] += values
        order = np.lexsort((np.arange(self._size), -scores))[:count]
        return [int(number) for number in order if scores[number] > 0]


class ProductSearch:
    """Keywords, and the special queries `<r>`, `<a> attribute`, `<c> category`, `<q> query`."""

    def __init__(self, products: Sequence[Product]) -> None:
        self._products = products
        self._index = Bm25([product.searched for product in products])

    def search(self, keywords: Sequence[str], random: Random) -> list[Product]:
        """`random` draws for `<r>`. What a special query names and is not there finds nothing."""
        special, rest = keywords[0], " ".join(keywords[1:]).strip()
        if special == "<r>":
            return random.sample(self._products, k=min(HITS, len(self._products)))
        if special == "<a>":
            return [product for product in self._products if rest in product.attributes]
        if special == "<c>":
            return [product for product in self._products if rest == product.category]
        if special == "<q>":
            return [product for product in self._products if rest == product.query]
        return [self._products[number] for number in self._index.search(" ".join(keywords))]
