"""Goals: what is to be bought, made of products as princeton-nlp/WebShop makes them (engine/goal.py; MIT).

Synthetic goals ask for each combination of a product's options; people's goals are read. Which prices
are asked for follows from the product here, where the original draws them anew in each process; the
order is the original's, so that goal n is the same product and options as its session n.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from tuft_components.envs.webshop.catalogue import Goal, Product

NO_LIMIT = 1_000_000.0
_ORDER_SEED = 233
_PRICES = [10.0 * tens for tens in range(1, 100)]
_PUBLISHED = 3000
"""From so many goals on, the splits are those that were published."""
_TEST, _TRAIN_FROM = 500, 1500


def goals_of(products: Sequence[Product], *, human: bool) -> list[Goal]:
    """In the original's order."""
    make = _human if human else _synthetic
    goals = [goal for product in products for goal in make(product)]
    Random(_ORDER_SEED).shuffle(goals)
    return goals


def weights_of(goals: Sequence[Goal], *, human: bool) -> list[float]:
    """How often goals are drawn: attributes that are asked for often weigh less."""
    if human:
        return [1.0] * len(goals)
    counts = Counter(attribute for goal in goals for attribute in goal.attributes)
    return [
        sum(1.0 / counts[attribute] for attribute in goal.attributes) / len(goal.attributes)
        for goal in goals
    ]


def split_of(goals: Sequence[Goal], split: str) -> list[int]:
    """Numbers of the goals that train, or evaluate.

    Of thousands: as published (the first 500 test, 1500 and after train). Of fewer, products are
    divided, so that nothing that is asked for in evaluation was bought in training.
    """
    if len(goals) >= _PUBLISHED:
        return list(range(_TEST) if split == "eval" else range(_TRAIN_FROM, len(goals)))
    asins = list(dict.fromkeys(goal.asin for goal in goals))
    held_out = set(asins[: max(1, len(asins) // 5)])
    return [n for n, goal in enumerate(goals) if (goal.asin in held_out) == (split == "eval")]


def _synthetic(product: Product) -> Iterator[Goal]:
    if product.task is None:
        return
    instruction, attributes = product.task
    price_upper, price_text = _asked_price(product, 0)
    names = sorted(product.options)
    for values in itertools.product(*(product.options[name] for name in names)):
        options = dict(zip(names, values, strict=True))
        asked = ", and ".join(f"{name}: {value}" for name, value in options.items())
        text = f"{instruction}{' with ' + asked if asked else ''}{price_text}"
        yield _goal(product, text, attributes, options, price_upper)


def _human(product: Product) -> Iterator[Goal]:
    for number, said in enumerate(product.instructions):
        if said["attributes"]:
            price_upper, price_text = _asked_price(product, number)
            text = said["instruction"].strip(".") + price_text
            yield _goal(product, text, said["attributes"], said["options"], price_upper)


def _goal(
    product: Product, instruction: str, attributes: Sequence[str], options: Any, price_upper: float
) -> Goal:
    return Goal(
        asin=product.asin,
        instruction=instruction,
        name=product.title,
        category=product.category,
        query=product.query,
        product_category=product.product_category,
        attributes=attributes,
        options=dict(options) if isinstance(options, Mapping) else list(options),
        price_upper=price_upper,
    )


def _asked_price(product: Product, number: int) -> tuple[float, str]:
    """The larger of two of the next four tens above the price."""
    above = [price for price in _PRICES if price > product.price][:4]
    if len(above) < 2:
        return NO_LIMIT, ""
    upper = max(Random(f"asked/{product.asin}/{number}").sample(above, 2))
    return upper, f", and price lower than {upper:.2f} dollars"
