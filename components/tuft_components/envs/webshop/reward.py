"""WebShop's reward for what was bought, by the published formula.

    reward = r_type * (attributes matched + options matched + [price <= price_upper])
                    / (attributes + options + 1)

Shunyu Yao et al., "WebShop: Towards Scalable Real-World Web Interaction with Grounded Language
Agents" (2022), and princeton-nlp/WebShop, web_agent_site/engine/goal.py (MIT), whose details count here:

- r_type is 1 where the products match (the same query, two levels of the category in common, or more
  than a fifth of the goal's nouns), else 0.5. A share of nouns below 0.1 makes it 0.1, and of 0 makes
  it 0, *also where they match*.
- Options with names are compared as the text of both, so that "xl" matches "size: xl".
- A colour is compared by the first colour word in it; one of a named option, only if it is nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from rapidfuzz import fuzz, utils

from tuft_components.envs.webshop.catalogue import Goal, Product
from tuft_components.envs.webshop.colours import colour_in
from tuft_components.envs.webshop.nouns import Nouns, token_nouns

ALIKE = 85
_NOT_ASCII = dict.fromkeys(range(128, 256))
_NO_NOUNS = 0.2  # the title's score where the goal's name has none


@dataclass(frozen=True)
class TypeMatch:
    r_type: float
    query_match: bool
    category_match: bool
    title_score: float


@dataclass(frozen=True)
class Score:
    """`r_option` is None where the goal has no options."""

    reward: float
    type: TypeMatch
    r_att: float
    r_option: float | None
    r_price: bool

    def parts(self) -> dict[str, float | bool | None]:
        """JSON values, named as the original's."""
        return {
            **asdict(self.type),
            "r_att": self.r_att,
            "r_option": self.r_option,
            "r_price": self.r_price,
        }


def alike(one: str, other: str) -> bool:
    """By the token set, as `thefuzz` rounds it, which the original uses."""
    prepared = (utils.default_process(text.translate(_NOT_ASCII)) for text in (one, other))
    ratio: float = fuzz.token_set_ratio(*prepared)
    return round(ratio) > ALIKE


def score(
    bought: Product, goal: Goal, options: Mapping[str, str], *, nouns: Nouns = token_nouns
) -> Score:
    """Of a purchase with these options chosen."""
    type_ = type_match(bought, goal, nouns)
    attributes = attributes_matched(bought, goal.attributes)
    wanted = goal.options.items() if isinstance(goal.options, Mapping) else goal.options
    found = options_matched(options.values(), wanted)
    r_price = bought.price <= goal.price_upper
    parts = len(goal.attributes) + len(goal.options) + 1
    return Score(
        reward=(attributes + found + r_price) / parts * type_.r_type,
        type=type_,
        r_att=attributes / len(goal.attributes) if goal.attributes else 0.0,
        r_option=found / len(goal.options) if goal.options else None,
        r_price=r_price,
    )


def type_match(bought: Product, goal: Goal, nouns: Nouns = token_nouns) -> TypeMatch:
    """Whether the two are of one type."""
    query_match = bought.query == goal.query
    category_match = len(_levels(bought.product_category) & _levels(goal.product_category)) >= 2
    wanted = nouns(goal.name)
    shared = set(nouns(bought.title)) & set(wanted)
    title_score = len(shared) / len(wanted) if wanted else _NO_NOUNS
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1 if title_score else 0.0
    return TypeMatch(r_type, query_match, category_match, title_score)


def _levels(product_category: str) -> set[str]:
    return {level.strip() for level in product_category.split("›")}


def attributes_matched(bought: Product, wanted: Iterable[str]) -> int:
    """Those among its attributes, or said in its title, bullets or description."""
    texts = (bought.title, " ".join(bought.bullets), bought.description)
    said = [text.lower() for text in texts]
    return sum(
        any(alike(own, attribute) for own in bought.attributes)
        or any(attribute in text for text in said)
        for attribute in wanted
    )


def options_matched(chosen: Iterable[str], wanted: Iterable[str | tuple[str, str]]) -> int:
    """`wanted` has values, or pairs of a name and a value."""
    had = [colour_in(value) or value for value in chosen]
    return sum(any(alike(value, _text(one)) for value in had) for one in wanted)


def _text(wanted: str | tuple[str, str]) -> str:
    """In a pair, the original finds a colour only where that is the whole name or value."""
    return colour_in(wanted) or str(wanted)
