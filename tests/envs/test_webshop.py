"""WebShop's pages, catalogues and goals, and play in full and by choosing."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed: make install-envs")
pytest.importorskip("snowballstemmer", reason="snowballstemmer is not installed: make install-envs")

from tests.envs.walks import play, walk, walk_elsewhere
from tuft_components.envs import make_environment
from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.webshop import scores, shop
from tuft_components.envs.webshop.catalogue import Goal
from tuft_components.envs.webshop.data_files import products_of
from tuft_components.envs.webshop.environment import action_in
from tuft_components.envs.webshop.generated import Settings, generate
from tuft_components.envs.webshop.goals import split_of
from tuft_components.envs.webshop.search import Bm25
from tuft_components.envs.webshop.shop import Shop, Visit
from tuft_components.errors import BadConfiguration, BadData

RECORDED = json.loads(Path(__file__).with_name("webshop_pages.json").read_text(encoding="utf-8"))
EASY: dict[str, Any] = {"mode": "choose", "shelf": "mixed", "products": 40, "values": 2}


def test_pages_are_those_of_the_original() -> None:
    """Its own code walked through a catalogue of ours: searches, pages, options, and what is no action."""
    products = products_of(RECORDED["items"], RECORDED["attributes"])
    visit = Visit(Shop(products, show_attributes=True), RECORDED["goal"])
    for row in RECORDED["walk"]:
        if row["action"]:
            step = visit.step(row["action"])
            assert (step.reward, step.done) == (row["reward"], row["done"]), row["action"]
        for mode in ("text", "text_rich", "url"):
            assert visit.observation(mode) == row[mode], row["action"]
        assert visit.clickables == row["clickables"]
    assert visit.done
    assert row["reward"] == 1.0


def test_html_has_what_agents_look_for_and_escapes_the_rest() -> None:
    visit = Visit(Shop(products_of(RECORDED["items"], RECORDED["attributes"])), RECORDED["goal"])
    assert 'id="search_input"' in visit.observation("html")
    visit.step("search[café]")
    assert '<a class="product-link" href="#">B00000000B</a>' in visit.observation("html")
    assert "Café chair &lt;oak&gt;" in visit.observation("html")
    visit.step("search[navy]")
    visit.step("click[b00000000a]")
    page = visit.observation("html")
    assert '<input type="radio" name="color" value="navy blue"><label>navy blue</label>' in page
    assert 'src="http://x/y.jpg?a=1&amp;b=2"' in page


def bought(visit: Visit, extra: Mapping[str, str] | None = None) -> float:
    """What a search for the name, its options and `click[buy now]` win."""
    visit.step(f"search[{visit.goal.name}]")
    while f"{visit.goal.asin.lower()}" not in visit.clickables:
        assert visit.step("click[next >]").ok
        assert "Total results" in visit.observation("text")
    assert visit.step(f"click[{visit.goal.asin}]").ok
    assert isinstance(visit.goal.options, dict)
    for value in {**visit.goal.options, **(extra or {})}.values():
        assert visit.step(f"click[{value}]").ok
    return visit.step("click[buy now]").reward


@pytest.mark.parametrize(
    "settings",
    [
        {"products": 40},
        {"products": 40, "seed": 3, "asked": 1, "options": 1},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"products": 2000, "seed": 1}, marks=pytest.mark.slow),
    ],
)
def test_every_goal_of_the_generated_catalogue_can_be_won(settings: dict[str, Any]) -> None:
    own = shop(**settings)
    assert len(own.goals) > len(own.products)
    assert [bought(Visit(own, number)) for number in range(len(own.goals))] == [1.0] * len(
        own.goals
    )


def test_wrong_purchases_win_less() -> None:
    own = shop(products=60)
    goals = range(0, len(own.goals), 7)
    for number in goals:
        goal = own.goals[number]
        for product in own.products:
            found = own.reward(product, goal, {})
            assert found.reward < 1.0
            if product.query != goal.query:
                assert found.reward == 0.0
    right = own.by_asin[own.goals[0].asin]
    assert isinstance(own.goals[0].options, dict)
    others = {
        name: next(value for value in right.options[name] if value != wanted)
        for name, wanted in own.goals[0].options.items()
    }
    assert 0 < bought(Visit(own, 0), others) < 1


def test_fifty_hits_in_pages_of_ten() -> None:
    own = shop(products=400)
    visit = Visit(own, 0)
    visit.step("search[made to last]")
    seen = []
    for number in range(1, 7):
        assert f"Page {number} (Total results: 50)" in visit.observation("text")
        seen.append([name for name in visit.clickables if name.upper() in own.by_asin])
        visit.step("click[next >]")
    assert [len(page) for page in seen] == [10, 10, 10, 10, 10, 0]
    assert len({asin for page in seen for asin in page}) == 50


def test_special_queries() -> None:
    own = shop(products=100)
    visit = Visit(own, 0)

    def hits(query: str) -> int:
        visit.step(f"search[{query}]")
        return int(visit.observation("text").split("Total results: ")[1].split(")")[0])

    assert hits("<r>") == 50
    assert hits("<q> yoga mat") == 5  # of 20 kinds
    assert hits("<c> electronics") == sum(p.category == "electronics" for p in own.products)
    attribute = own.products[0].attributes[0]
    assert hits(f"<a> {attribute}") == sum(attribute in p.attributes for p in own.products)
    assert [hits(query) for query in ("<a> ", "<c>", "<q> no such", "zzz", "the")] == [0] * 5


def test_the_best_hit_has_the_rarest_words() -> None:
    index = Bm25(
        ["red chair", "blue chairs and red chairs", "a lamp", "red red lamp " + "of old " * 20]
    )
    assert index.search("chair") == [1, 0]  # twice; chairs is chair
    assert index.search("lamp") == [2, 3]  # the shorter text
    assert index.search("red lamp", 1) == [3]  # both words
    assert index.search("table") == []
    assert Bm25([]).search("x") == []


def test_another_process_sees_the_same() -> None:
    """Catalogue, goals, prices, search, and what `<r>` draws; the shelf too, where it takes longer."""
    task = Task("eval", 4, 7)
    args: dict[str, Any] = {"observation": "text_rich", "seed": 5, "products": 80}
    actions = ["search[<r>]", "click[next >]", "search[red]", "nonsense"]
    assert walk("webshop", args, task, actions) == walk_elsewhere("webshop", args, task, actions)
    assert walk("webshop", args, task, []) != walk("webshop", {**args, "seed": 6}, task, [])


@pytest.mark.slow
@pytest.mark.parametrize("shelf", ["mixed", "search"])
def test_another_process_offers_the_same(shelf: str) -> None:
    task, args = Task("train", 4, 7), {**EASY, "shelf": shelf}
    actions = ["2", "x", "1", "2"]
    assert walk("webshop", args, task, actions) == walk_elsewhere("webshop", args, task, actions)


async def test_an_agent_in_full_and_one_that_says_anything() -> None:
    family = make_environment("webshop", {"products": 30})
    environment = await family.open()
    first = await environment.reset(Task("train", 0, 3))
    assert str(first.observation).startswith("You are shopping on the web.")
    goal = shop(products=30).goals[first.info["goal"]]
    asked = [f"Thought: [so]\nAction: Search[{goal.name}]\n", f"click[{goal.asin}]"]
    assert isinstance(goal.options, dict)
    asked += [f"click[{value}]" for value in goal.options.values()]
    for action in asked:
        turn = await environment.step(action)
        assert not turn.error
        assert "click[back to search]" in turn.actions
    page = turn.observation
    for wrong in (
        "",
        "click[",
        "click[nothing]",
        "buy now",
        "x" * 100_000,
        "search[]",
        "[]",
        "\n\n\0",
    ):
        turn = await environment.step(wrong)
        assert "click[…] one of: back to search" in turn.error
        assert turn.error in str(turn.observation)
        assert (turn.reward, turn.done) == (0.0, False)
    assert (await environment.step(asked[-1])).observation == page  # nothing had changed
    last = await environment.step("click[Buy Now]")
    assert (last.reward, last.done) == (1.0, True)
    assert last.info["score"]["r_type"] == 1.0
    assert last.info["bought"] == goal.asin
    after = await environment.step("click[buy now]")
    assert (after.reward, bool(after.error)) == (0.0, True)


def test_actions_in_what_is_said() -> None:
    assert action_in(" click[a]\n") == "click[a]"
    assert action_in("click[a]? No.\nAction: SEARCH [ red [x] ]") == "search[red [x]]"
    assert action_in("buy it") == "buy it"


async def chosen(args: Mapping[str, Any], player: Any, tasks: int, split: str = "eval") -> float:
    """The mean reward of `player`, which gets a turn."""
    family = make_environment("webshop", args)
    environment = await family.open()
    total = 0.0
    for index in range(tasks):
        turns = await play(environment, Task(split, 0, index), player, most=8)
        assert all(len(turn.actions) <= 9 for turn in turns)
        assert all(len(str(turn.observation)) <= 240 for turn in turns)  # characters
        total += sum(turn.reward for turn in turns)
    return total / tasks


class Perfect:
    """Knows the goal's product and options, and reads the numbers before them."""

    def __init__(self, own: Shop) -> None:
        self.own = own

    def __call__(self, turn: Turn) -> str:
        goal = self.own.goals[turn.info["goal"]]
        product = self.own.by_asin[goal.asin]
        values = goal.options.values() if isinstance(goal.options, dict) else goal.options
        wanted = {f"{product.title} ${product.price:g}", *values, "buy now"}
        lines: dict[str, str] = {}
        for line in str(turn.observation).splitlines():
            number, _, action = line.partition(". ")
            lines[action] = number
        return f" {next(lines[line] for line in lines if line in wanted)}\n"


@pytest.mark.parametrize("shelf", ["mixed", "search"])
async def test_choosing_is_worth_what_is_computed(shelf: str) -> None:
    args = {**EASY, "shelf": shelf}
    expected = scores("eval", **args)
    assert expected["best"] == 1.0
    own = shop(products=40, values=2, asked=1, options=1)
    count = len(split_of(own.goals, "eval"))
    assert await chosen(args, Perfect(own), count) == 1.0
    rng = random.Random(0)
    by_chance = await chosen(args, lambda turn: rng.choice(turn.actions), 400)
    assert by_chance == pytest.approx(expected["random"], abs=0.06)
    assert await chosen(args, lambda turn: "none", 5) == 0.0


async def test_going_back_begins_again() -> None:
    family = make_environment("webshop", EASY)
    environment = await family.open()
    first = await environment.reset(Task("train", 0, 0))
    for action in ("1", "1"):
        turn = await environment.step(action)
    assert sorted(turn.actions) == ["1", "2"]
    lines = str(turn.observation).splitlines()
    assert (lines[1], sorted(line[3:] for line in lines[2:4])) == ("ready:", ["back", "buy now"])
    back = next(line[0] for line in lines if line.endswith(". back"))
    turn = await environment.step(f" {back}\n")
    assert str(turn.observation).splitlines()[1:] == str(first.observation).splitlines()[1:]
    assert str(turn.observation).startswith("products:")


def test_splits_share_no_product_and_large_ones_are_as_published() -> None:
    own = shop()
    numbers = {split: split_of(own.goals, split) for split in SPLITS}
    asins = {split: {own.goals[n].asin for n in numbers[split]} for split in SPLITS}
    assert not asins["train"] & asins["eval"]
    assert sorted(numbers["train"] + numbers["eval"]) == list(range(len(own.goals)))
    many: list[Goal] = [own.goals[0]] * 6910
    assert split_of(many, "eval") == list(range(500))
    assert split_of(many, "train") == list(range(1500, 6910))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"products": 0}, "products is 0; it must be 1 or more"),
        ({"products": 200_000}, "it must be 1 to 100000"),
        ({"asked": 3}, "asked is 3; it must be 1 to 2"),
        ({"nonsense": 1}, "nonsense"),
        ({"observation": "image"}, "there are: text, text_rich, html, url"),
        ({"mode": "sing"}, "there are: text, chat, choose"),
        ({"mode": "choose", "shown": 10}, "shown is 10; it must be 2 to 9"),
        ({"mode": "choose", "shelf": "top"}, "there are: search, mixed"),
        ({"items": "x.json"}, "give items and attributes, both or neither"),
        ({"items": "x.json", "attributes": "y.json"}, "can't read WebShop's data file x.json"),
        ({"nouns": "nltk"}, "there are: tokens, spacy"),
    ],
)
def test_arguments_that_can_not_be(args: dict[str, Any], said: str) -> None:
    with pytest.raises(BadConfiguration, match=said.replace(".", r"\.")):
        make_environment("webshop", args)


async def test_a_task_that_is_not_there() -> None:
    environment = await make_environment("webshop", {"products": 1}).open()
    assert not (await environment.reset(Task("eval", 0, 0))).done
    with pytest.raises(ValueError, match="no goals for train in a catalogue of 1 products"):
        await environment.reset(Task("train", 0, 0))
    with pytest.raises(ValueError, match="there are: train, eval"):
        await environment.reset(Task("test", 0, 0))


def written(folder: Path, **files: Any) -> dict[str, Any]:
    for name, held in files.items():
        text = held if isinstance(held, str) else json.dumps(held)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return {name: str(folder / f"{name}.json") for name in files}


def test_original_data_files(tmp_path: Path) -> None:
    """What they hold that the generated catalogue does not: ranges, no price, slashes, left-out items."""
    items, attributes = generate(Settings(products=4))
    one, two, three, four = items
    one["pricing"], one["customization_options"] = (
        "$19.99$25.50",
        {"Color": [{"value": " Red/White "}]},
    )
    two["pricing"], two["small_description"] = None, "one bullet"
    del attributes[two["asin"]]
    three["asin"] = "nan"
    four["customization_options"] = {"Size": None}
    said = {
        "instruction": "i want a red one.",
        "instruction_attributes": ["soft"],
        "instruction_options": ["red"],
    }
    human = {one["asin"]: [said, {**said, "instruction_attributes": []}]}
    paths = written(tmp_path, items=[*items, one], attributes=attributes, goals=human)
    own = shop(items=paths["items"], attributes=paths["attributes"])
    assert [product.asin for product in own.products] == [one["asin"], two["asin"], four["asin"]]
    first, second, third = own.products
    assert (first.price_tag, first.options) == ("$19.99 to $25.5", {"color": ["red | white"]})
    assert 19.99 <= first.price <= 25.5
    assert (second.price, second.attributes, second.bullets) == (
        100.0,
        ["DUMMY_ATTR"],
        ["one bullet"],
    )
    assert third.options == {}
    assert {goal.asin for goal in own.goals} == {first.asin, third.asin}
    people = shop(**paths, products=1)
    (goal,) = people.goals
    assert goal.instruction.startswith("i want a red one, and price lower than ")
    assert (goal.options, goal.attributes) == (["red"], ["soft"])
    (tmp_path / "goals.json").write_text("{}")
    with pytest.raises(ValueError, match="has no instructions of people"):
        shop(**paths)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"items": "[{"}, "items.json is no JSON"),
        ({"items": "{}"}, "items.json holds a dict, not a list of products"),
        ({"attributes": "[]"}, "attributes.json holds a list, not an object"),
        ({"items": "[]"}, "no product"),
        ({"items": [1]}, "item 0 is no object with an asin"),
        ({"items": [{"asin": "B1"}]}, r"item 0 \(B1\) has no 'small_description'"),
        ({"pricing": "cheap"}, "pricing is 'cheap'; it must be as"),
        ({"pricing": "$1.2.3"}, "pricing is"),
        ({"pricing": 12}, "is malformed"),
        ({"name": 5}, "name is no text, but int"),
        ({"customization_options": {"Color": [{}]}}, "has no 'value'"),
        ({"customization_options": [1]}, "is malformed"),
    ],
)
def test_malformed_data_files(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    items, attributes = generate(Settings(products=2))
    whole = {"items": items, "attributes": attributes}
    if set(files) <= set(whole):
        whole.update(files)
    else:
        items[0].update(files)
    with pytest.raises(BadData, match=said):
        make_environment("webshop", written(tmp_path, **whole))


def test_malformed_attributes_and_goals(tmp_path: Path) -> None:
    items, attributes = generate(Settings(products=2))
    asin = items[1]["asin"]
    attributes[asin]["instruction_attributes"] = []
    with pytest.raises(
        BadData, match=f"item 1 .{asin}. is malformed: it has an instruction, but no"
    ):
        make_environment("webshop", written(tmp_path, items=items, attributes=attributes))
    attributes[asin]["instruction_attributes"] = ["x"]
    paths = written(
        tmp_path, items=items, attributes=attributes, goals={asin: [{"instruction": 1}]}
    )
    with pytest.raises(BadData, match="has no 'instruction_options'"):
        make_environment("webshop", paths)
