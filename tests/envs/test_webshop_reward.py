"""WebShop's reward, case by case, by the published formula; the numbers are worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed: make install-envs")

from tuft_components.envs.webshop.catalogue import Goal, Product
from tuft_components.envs.webshop.nouns import nouns_by, token_nouns
from tuft_components.envs.webshop.reward import alike, options_matched, score, type_match
from tuft_components.errors import BadConfiguration

CHAIR = Product(
    asin="B1",
    title="Nova folding chair",
    description="Light and EASY CLEAN.",
    bullets=["Holds 120 kg"],
    category="garden",
    query="chair",
    product_category="Home › Furniture › Chairs",
    prices=[35.0],
    options={"color": ["navy blue", "red"], "size": ["xl", "small"]},
    attributes=["folding", "essential oil"],
)
GOAL = Goal(
    asin="B1",
    instruction="find me folding, easy clean chair",
    name="Nova folding chair",
    category="garden",
    query="chair",
    product_category="Home › Furniture › Chairs",
    attributes=["folding", "easy clean"],
    options={"color": "navy blue", "size": "xl"},
    price_upper=40.0,
)
ALL = {"color": "navy blue", "size": "xl"}


def test_all_that_was_asked_for() -> None:
    found = score(CHAIR, GOAL, ALL)
    assert found.reward == 1.0
    assert (found.r_att, found.r_option, found.r_price) == (1.0, 1.0, True)


@pytest.mark.parametrize(
    ("bought", "options", "parts"),
    [
        (CHAIR, {"color": "navy blue"}, 4),  # the size was not chosen
        (CHAIR, {"color": "red", "size": "xl"}, 4),
        (CHAIR, {}, 3),
        (replace(CHAIR, prices=[40.0]), ALL, 5),  # not more than the limit
        (replace(CHAIR, prices=[40.01]), ALL, 4),
        (replace(CHAIR, description=""), ALL, 4),  # nowhere else was it easy to clean
        (replace(CHAIR, attributes=[]), ALL, 5),  # folding is in the title
        (replace(CHAIR, attributes=[], title="Nova chair"), ALL, 4),
        (replace(CHAIR, attributes=[], title="Nova chair", bullets=["It is Folding"]), ALL, 5),
        (replace(CHAIR, prices=[41.0], description=""), {}, 1),
    ],
)
def test_parts_of_five(bought: Product, options: dict[str, str], parts: int) -> None:
    """Two attributes, two options and the price."""
    assert score(bought, GOAL, options).reward == pytest.approx(parts / 5)


def test_without_options_and_with_a_price_range() -> None:
    goal = replace(GOAL, options={}, attributes=["folding"])
    bought = replace(CHAIR, prices=[30.0, 39.0])
    assert 30 <= bought.price <= 39
    found = score(bought, goal, {})
    assert (found.reward, found.r_option) == (1.0, None)
    assert score(replace(CHAIR, prices=[41.0]), goal, {"color": "red"}).reward == 0.5


FIVE = "ladder bucket hammer pliers shovel"
TWELVE = f"{FIVE} anvil rope wheel barrel candle mirror chair"
OTHER = {"query": "lamp", "product_category": "Garden › Lamps"}


@pytest.mark.parametrize(
    ("changes", "wanted", "r_type", "title_score"),
    [
        ({}, "Nova folding chair", 1.0, 1.0),
        # The name alone: more than a fifth of its nouns, exactly a fifth, less than a tenth.
        (OTHER, "chair hammer", 1.0, 0.5),
        (OTHER, "chair ladder bucket hammer pliers", 0.5, 0.2),
        (OTHER, TWELVE, 0.1, 1 / 12),
        (OTHER, FIVE, 0.0, 0.0),
        # The query or two levels in common help where the name does not reach a fifth …
        ({**OTHER, "query": "chair"}, f"{FIVE} chair rope", 1.0, 1 / 7),
        ({**OTHER, "product_category": "Chairs › Old › Home"}, f"{FIVE} chair rope", 1.0, 1 / 7),
        ({**OTHER, "product_category": "Home › Home › Old"}, f"{FIVE} chair rope", 0.5, 1 / 7),
        # … but not below a tenth: these two go over all else.
        ({}, TWELVE, 0.1, 1 / 12),
        ({}, FIVE, 0.0, 0.0),
        # A name without nouns scores 0.2: no match by itself, and no override.
        (OTHER, "2 of the 12", 0.5, 0.2),
        ({}, "2 of the 12", 1.0, 0.2),
        # A noun that is said twice counts twice in what is wanted.
        (OTHER, "chair chair hammer", 1.0, 1 / 3),
    ],
)
def test_type(changes: dict[str, Any], wanted: str, r_type: float, title_score: float) -> None:
    bought = replace(CHAIR, **changes)
    found = type_match(bought, replace(GOAL, name=wanted))
    assert found.r_type == r_type
    assert found.title_score == pytest.approx(title_score)
    goal = replace(GOAL, name=wanted)
    assert score(bought, goal, ALL).reward == pytest.approx(r_type)


@pytest.mark.parametrize(
    ("chosen", "wanted", "matched"),
    [
        (["pack of 12", "grey", "XL"], ["grey", "XL", "pack of 12"], 3),
        (["pack of 12", "blue", "XL"], ["grey", "XL", "pack of 12"], 2),
        (["powder snow"], ["cool powder snow"], 1),  # the token set
        (["royal blue"], ["navy blue"], 1),  # both are blue: the first colour of the list
        (["dark red"], ["red"], 0),  # dark comes before red
        (["xl"], [("size", "xl")], 1),
        (["x-large"], [("size", "large")], 0),
        (["royal blue"], [("color", "blue")], 1),
        (["blue"], [("color", "navy blue")], 1),  # as tokens of "color navy blue"
        (["royal blue"], [("color", "navy")], 0),
        ([], ["grey"], 0),
    ],
)
def test_options(chosen: list[str], wanted: list[str | tuple[str, str]], matched: int) -> None:
    assert options_matched(chosen, wanted) == matched


def test_alike_is_above_85_after_rounding() -> None:
    assert alike("essential oils", "essential oil")  # 96
    assert not alike("abcdef", "abcdeg")  # 83
    assert not alike("aaaaaabbb", "aaaaaaccb")  # 78
    assert alike("Easy-Clean é", "easy clean")
    assert not alike("", "")


def test_nouns_are_what_is_left() -> None:
    assert token_nouns("The 2 Pack of Nova's soft wooden Chairs, 12oz") == (
        "pack",
        "nova's",
        "chairs",
    )
    with pytest.raises(ValueError, match="there are: tokens, spacy"):
        nouns_by("nltk")


def test_spacy_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(BadConfiguration, match="python -m spacy download en_core_web_sm"):
        nouns_by("spacy")
