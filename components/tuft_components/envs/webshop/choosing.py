"""WebShop for small models: the search is done, and each turn asks one thing.

    find me cotton towel with color: red, and price lower than 40.00 dollars
    1. Spa hooded towel $12
    2. Terry cotton towel $35
    Action: 2
    color:
    1. red
    2. blue
    Action: 1
    ready:
    1. buy now
    2. back
    Action: 1

`tuft_components.envs.choose` writes the numbers. It is the same shop, catalogue and reward; what is
left out is searching, further pages, and the pages about a product. Turns are short: a model of 135M
parameters can be trained on them, on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from tuft_components.envs.base import Task, Turn
from tuft_components.envs.webshop.catalogue import Goal, Product
from tuft_components.envs.webshop.environment import Goals, task_info
from tuft_components.envs.webshop.reward import alike
from tuft_components.envs.webshop.shop import Shop, Visit

MOST = 9
"""Actions of a turn: a number of one digit."""
SHELVES = ("search", "mixed")
BUY, BACK = "buy now", "back"
_LONGEST_TITLE = 8  # words


@dataclass(frozen=True)
class Shelf:
    """Which products are offered.

    Args:
        shown: how many; 2 to 9.
        kind: `search`, what a search for the goal's kind and attributes finds first; `mixed`,
            products of other kinds instead, which are easier to tell apart.
    """

    shown: int = 4
    kind: str = "search"

    def __post_init__(self) -> None:
        if not 2 <= self.shown <= MOST:
            raise ValueError(f"shown is {self.shown}; it must be 2 to {MOST}")
        if self.kind not in SHELVES:
            raise ValueError(f"shelf is {self.kind!r}; there are: {', '.join(SHELVES)}")

    def offered(self, shop: Shop, number: int) -> list[Product]:
        """For a goal: what it asks for and others, in an order that follows from the goal."""
        goal = shop.goals[number]
        random = Random(f"shelf/{number}")
        wanted = shop.by_asin[goal.asin]
        others = (
            self._found(shop, goal) if self.kind == "search" else self._mixed(shop, goal, random)
        )
        found = [wanted, *others[: self.shown - 1]]
        random.shuffle(found)
        return found

    @staticmethod
    def _found(shop: Shop, goal: Goal) -> list[Product]:
        hits = shop.search.search([goal.query, *goal.attributes], Random(0))
        return [product for product in hits if product.asin != goal.asin]

    def _mixed(self, shop: Shop, goal: Goal, random: Random) -> list[Product]:
        others = [product for product in shop.products if product.query != goal.query]
        return random.sample(others, min(self.shown - 1, len(others)))


class Guided:
    """Product, then each of its options, then `buy now`. Played by `Choosing`."""

    def __init__(self, shop: Shop, goals: Goals, shelf: Shelf) -> None:
        self._shop, self._goals, self._shelf = shop, goals, shelf
        self._visit: Visit
        self._at: _Place

    async def reset(self, task: Task) -> Turn:
        self._visit = Visit(self._shop, self._goals.number(task))
        self._at = _Place(self._shop, self._shelf, self._visit.number)
        return self._asked(self._visit.instruction)

    async def step(self, action: str) -> Turn:
        actions = self._at.actions()
        if action not in actions:
            error = f"no action {action!r} here; there are: {', '.join(actions)}"
            return Turn(error, actions=actions, error=error, info=task_info(self._visit))
        if not self._at.take(actions.index(action)):
            return self._asked(self._at.asks())
        reward = self._buy(*self._at.bought())
        return Turn(reward=reward, done=True, info=task_info(self._visit))

    def _buy(self, product: Product, options: Sequence[tuple[str, str]]) -> float:
        """In the shop itself, as one that plays all of it would."""
        self._visit.shelve([product])
        for said in [product.asin.lower(), *(value for _, value in options)]:
            self._visit.step(f"click[{said}]")
        return self._visit.step(f"click[{BUY}]").reward

    def _asked(self, text: str) -> Turn:
        return Turn(text, actions=self._at.actions(), info=task_info(self._visit))


class _Place:
    """Where a visit is: at the shelf, at an option of a product, or at the till."""

    def __init__(self, shop: Shop, shelf: Shelf, number: int) -> None:
        self._goal = shop.goals[number]
        self.offered = shelf.offered(shop, number)
        self._product: Product | None = None
        self._options: tuple[tuple[str, str], ...] = ()
        # In no fixed order: else always saying its number wins without looking.
        self._till = [BUY, BACK]
        Random(f"till/{number}").shuffle(self._till)

    def asks(self) -> str:
        if self._product is None:
            return "products:"
        return f"{self._open_option() or 'ready'}:"

    def actions(self) -> list[str]:
        """Distinct texts, at most nine."""
        if self._product is None:
            return _distinct([shown(product) for product in self.offered])
        name = self._open_option()
        return self.values(self._product, name) if name else list(self._till)

    def take(self, choice: int) -> bool:
        """Whether it was to buy."""
        name = self._open_option()
        if self._product is None:
            self._product = self.offered[choice]
        elif name:
            self._options += ((name, self.values(self._product, name)[choice]),)
        elif self._till[choice] == BUY:
            return True
        else:
            self._product, self._options = None, ()
        return False

    def bought(self) -> tuple[Product, tuple[tuple[str, str], ...]]:
        assert self._product is not None
        return self._product, self._options

    def _open_option(self) -> str:
        """The first that has no value yet; empty: none."""
        if self._product is None:
            return ""
        return next(iter(list(_named(self._product))[len(self._options) :]), "")

    def values(self, product: Product, name: str) -> list[str]:
        """Of many, the ones that the goal may mean come first, and nine are left."""
        values = list(dict.fromkeys(product.options[name]))
        if len(values) <= MOST:
            return values
        options = self._goal.options
        wanted = list(options.values() if isinstance(options, Mapping) else options)
        kept = sorted(values, key=lambda value: not any(alike(value, one) for one in wanted))[:MOST]
        return [value for value in values if value in kept]


def _named(product: Product) -> Sequence[str]:
    return [name for name, values in product.options.items() if values]


def shown(product: Product) -> str:
    """A line of the list."""
    words = product.title.split()
    cut = "…" if len(words) > _LONGEST_TITLE else ""
    prices = "-".join(f"${price:g}" for price in product.prices)
    return f"{' '.join(words[:_LONGEST_TITLE])}{cut} {prices}"


def _distinct(lines: Sequence[str]) -> list[str]:
    """Lines that are there twice say which they are."""
    said: list[str] = []
    for line in lines:
        count = said.count(line) + sum(one.startswith(f"{line} (") for one in said)
        said.append(f"{line} ({count + 1})" if count else line)
    return said


def chances(shop: Shop, goals: Sequence[int], shelf: Shelf, turns: int) -> dict[str, float]:
    """What choosing at random within `turns` turns is worth, and the best that can be bought.

    `random_wins` is the share of episodes in which choosing at random gets the full reward.
    """
    found = [_chances(shop, number, shelf, turns) for number in goals]
    names = ("random", "random_wins", "best")
    return {
        name: sum(each[place] for each in found) / len(found) for place, name in enumerate(names)
    }


def _chances(shop: Shop, number: int, shelf: Shelf, turns: int) -> tuple[float, float, float]:
    goal = shop.goals[number]
    ends = [
        (chance, length, shop.reward(product, goal, options).reward)
        for product, options, chance, length in _ends(_Place(shop, shelf, number))
    ]

    @cache
    def worth(left: int) -> tuple[float, float]:
        """With so many turns left; who goes back begins again, with fewer."""
        reward_sum = wins = 0.0
        for chance, length, reward in ends:
            if length <= left:
                again = worth(left - length)
                reward_sum += chance * (reward + again[0]) / 2
                wins += chance * ((reward == 1.0) + again[1]) / 2
        return reward_sum, wins

    return (*worth(turns), max(reward for _, _, reward in ends))


def _ends(place: _Place) -> Iterator[tuple[Product, dict[str, str], float, int]]:
    """All that can be bought: with its options, how likely it is reached, and in how many turns."""
    for product in place.offered:
        names = _named(product)
        combinations = list(itertools.product(*(place.values(product, name) for name in names)))
        chance = 1 / len(place.offered) / len(combinations)
        for values in combinations:
            options = dict(zip(names, values, strict=True))
            yield product, options, chance, len(names) + 2
