"""What a shop sells: products, and prices that are drawn where a product names a range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

NO_PRICE = 100.0
"""What a product costs that names no price, as in the original."""


@dataclass(frozen=True)
class Product:
    """
    Args:
        asin: up to ten characters; unique.
        category, query, product_category: of what kind it is, from wide to narrow;
            `product_category` has levels, as "Home › Kitchen › Mugs".
        prices: one, or the two ends of a range.
        options: values by the option's name.
        attributes: what the reward looks for.
        task: what people are to ask for, and which attributes of it count; None: no goal.
        instructions: what people did ask for, in the words of the data.
    """

    asin: str
    title: str
    description: str
    bullets: Sequence[str]
    category: str
    query: str
    product_category: str
    prices: Sequence[float]
    options: Mapping[str, Sequence[str]]
    attributes: Sequence[str]
    image: str = ""
    task: tuple[str, Sequence[str]] | None = None
    instructions: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def price_tag(self) -> str:
        return " to ".join(f"${price}" for price in self.prices)

    @property
    def price(self) -> float:
        """The same in every process: of a range, one that follows from the product alone."""
        if len(self.prices) == 1:
            return self.prices[0]
        return Random(f"price/{self.asin}").uniform(self.prices[0], self.prices[1])

    @property
    def searched(self) -> str:
        """What the search looks at."""
        options = ", and ".join(f"{name}: {', '.join(all_)}" for name, all_ in self.options.items())
        first_bullet = self.bullets[0] if self.bullets else ""
        return " ".join([self.title, self.description, first_bullet, options]).lower()


@dataclass(frozen=True)
class Goal:
    """What is to be bought. `options` are names with values, or values alone (people's goals)."""

    asin: str
    instruction: str
    name: str
    category: str
    query: str
    product_category: str
    attributes: Sequence[str]
    options: Mapping[str, str] | Sequence[str]
    price_upper: float
    weight: float = 1.0
