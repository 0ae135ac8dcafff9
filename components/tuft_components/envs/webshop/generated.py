"""A catalogue that ships with us: products from a seeded generator, with the original data's keys.

The same settings give the same catalogue in every process. Titles say what goals ask for, so that what
is to be bought can be seen in a list of results; a product of another kind is worth nothing, and one of
the right kind with a wrong attribute, option or price a part, by the formula.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from string import ascii_uppercase, digits
from typing import Any

MOST = 100_000
_COLOURS = ["red", "blue", "green", "black", "white", "pink", "orange", "purple", "yellow", "brown"]


@dataclass(frozen=True)
class Settings:
    """
    Args:
        products: how many; 1 to 100,000.
        seed: another one gives another catalogue.
        asked: attributes that a goal asks for; 1 or 2.
        options: a product's options, at most; 0 to 2. The first is its colour.
        values: colours of a product, at most; 2 to 9.
    """

    products: int = 200
    seed: int = 0
    asked: int = 2
    options: int = 2
    values: int = 4

    def __post_init__(self) -> None:
        limits = {
            "products": (1, MOST),
            "asked": (1, 2),
            "options": (0, 2),
            "values": (2, 9),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {low} to {high}")


@dataclass(frozen=True)
class Kind:
    noun: str
    category: str
    product_category: str
    brands: tuple[str, ...]
    attributes: tuple[str, ...]
    option: tuple[str, tuple[str, ...]] | None
    prices: tuple[int, int]


@cache
def kinds() -> tuple[Kind, ...]:
    lines = files(__package__).joinpath("kinds.txt").read_text(encoding="utf-8").splitlines()
    return tuple(_kind(line) for line in lines if line and not line.startswith("#"))


def _kind(line: str) -> Kind:
    noun, category, path, brands, attributes, option, prices = map(str.strip, line.split("|"))
    name, _, values = option.partition(":")
    low, high = prices.split("-")
    return Kind(
        noun,
        category,
        path.replace(">", "›"),
        _list(brands),
        _list(attributes),
        (name, _list(values)) if name else None,
        (int(low), int(high)),
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def generate(settings: Settings) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """What `items_shuffle.json` and `items_ins_v2.json` would hold."""
    random = Random(f"catalogue/{settings.seed}")
    drawn = {kind.noun: _titles(kind, settings.asked, random) for kind in kinds()}
    order = random.sample(kinds(), len(kinds()))
    items, attributes = [], {}
    asins: set[str] = set()
    for kind in itertools.islice(itertools.cycle(order), settings.products):
        asin = _asin(random, asins)
        brand, asked = next(drawn[kind.noun])
        items.append(_item(kind, asin, brand, asked, settings, random))
        attributes[asin] = {
            "attributes": list(asked),
            "instruction": f"find me {', '.join(asked)} {kind.noun}",
            "instruction_attributes": list(asked),
        }
    random.shuffle(items)
    return items, attributes


def _titles(kind: Kind, asked: int, random: Random) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Brands with attributes, without end; a pair comes again when all were there."""
    pairs = list(itertools.product(kind.brands, itertools.combinations(kind.attributes, asked)))
    while True:
        yield from random.sample(pairs, len(pairs))


def _asin(random: Random, taken: set[str]) -> str:
    while True:
        asin = "B" + "".join(random.choices(ascii_uppercase + digits, k=9))
        if asin not in taken:
            taken.add(asin)
            return asin


def _item(
    kind: Kind,
    asin: str,
    brand: str,
    asked: tuple[str, ...],
    settings: Settings,
    random: Random,
) -> dict[str, Any]:
    options: dict[str, list[dict[str, str]]] = {}
    if settings.options >= 1:
        count = random.randint(2, settings.values)
        options["color"] = [{"value": value} for value in random.sample(_COLOURS, count)]
    if settings.options >= 2 and kind.option is not None:
        name, values = kind.option
        options[name] = [{"value": value} for value in values]
    title = f"{brand} {' '.join(asked)} {kind.noun}"
    return {
        "asin": asin,
        "name": title,
        "full_description": f"The {title}, made to last.",
        "small_description": [*(f"It is {each}." for each in asked), "Ships in two days."],
        "category": kind.category,
        "query": kind.noun,
        "product_category": kind.product_category,
        "pricing": f"${random.randint(*kind.prices)}.00",
        "customization_options": options,
        "images": [],
    }
