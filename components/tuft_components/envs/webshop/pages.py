"""The pages of the shop, and how an agent sees them: html, text or text_rich.

What the two texts say is what the original's pages say (princeton-nlp/WebShop, templates and
envs/web_agent_text_env.py; MIT), node by node. The HTML is our own, with the ids and classes that agents
look for: `search_input`, `instruction-text`, `btn`, `product-link`, radio inputs, `reward`.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape

from tuft_components.envs.webshop.catalogue import Product

PER_PAGE = 10
BACK, NEXT, PREV, BUY = "Back to Search", "Next >", "< Prev", "Buy Now"
OBSERVATIONS = ("text", "text_rich", "html", "url")
SUB_PAGES = ("Description", "Features", "Reviews")
RATING = "N.A."
_SEP = " [SEP] "


class Kind(Enum):
    TEXT = "text"
    BUTTON = "button"
    PRODUCT = "product"
    OPTION = "option"


@dataclass(frozen=True)
class Node:
    """A text on a page. `html` has a place for it; of an option, `name` is what it is a value of."""

    text: str
    kind: Kind = Kind.TEXT
    html: str = "<p>{}</p>"
    name: str = ""


Page = Sequence[Node]


@dataclass(frozen=True)
class Seen:
    """What was clicked before: it is marked in text_rich. Options are known by the page's URL."""

    url: str
    asins: Container[str]


def _button(text: str) -> Node:
    return Node(text, Kind.BUTTON, '<form><button type="submit" class="btn">{}</button></form>')


def _instruction(text: str, label: str = "Instruction:") -> list[Node]:
    return [
        Node(label, html='<div id="instruction-text"><h4>{}<br>'),
        Node(text, html="{}</h4></div>"),
    ]


def search_page(instruction: str) -> Page:
    return [
        Node("WebShop", html='<div id="logo"><h2>{}</h2></div>'),
        *_instruction(instruction, "Instruction: "),
        Node(
            "Search",
            Kind.BUTTON,
            '<form><input id="search_input" type="text" name="search_query">'
            '<button class="btn" type="submit">{}</button></form>',
        ),
    ]


def results_page(instruction: str, hits: Sequence[Product], number: int) -> Page:
    shown = hits[(number - 1) * PER_PAGE : number * PER_PAGE]
    nodes = [
        *_instruction(instruction),
        _button(BACK),
        Node(f"Page {number} (Total results: {len(hits)})", html="<h3>{}</h3>"),
        *([_button(PREV)] if number > 1 else []),
        _button(NEXT),
    ]
    for product in shown:
        nodes += [
            Node(product.asin, Kind.PRODUCT, '<h4><a class="product-link" href="#">{}</a></h4>'),
            Node(product.title, html='<h4 class="product-title">{}</h4>'),
            Node(product.price_tag, html='<h5 class="product-price">{}</h5>'),
        ]
    return nodes


def item_page(instruction: str, product: Product, show_attributes: bool) -> Page:
    nodes = [*_instruction(instruction), _button(BACK), _button(PREV)]
    for name, values in product.options.items():
        nodes.append(Node(name, html="<h4>{}</h4>"))
        nodes += [_option(name, value) for value in values]
    image = f'<img id="product-image" src="{_quoted(product.image)}">'
    nodes += [
        Node(product.title, html=image + "<h2>{}</h2>"),
        Node(f"Price: {product.price_tag}", html="<h4>{}</h4>"),
        Node(f"Rating: {RATING}", html="<h4>{}</h4>"),
        *map(_button, SUB_PAGES),
        *([_button("Attributes")] if show_attributes else []),
        _button(BUY),
    ]
    return nodes


def _option(name: str, value: str) -> Node:
    radio = f'<input type="radio" name="{_quoted(name)}" value="{_quoted(value)}">'
    return Node(value, Kind.OPTION, radio + "<label>{}</label>", name)


def _quoted(text: str) -> str:
    """For a place in a template of `Node.html`, which is filled by `format`."""
    return escape(text).replace("{", "{{").replace("}", "}}")


def sub_page(instruction: str, product: Product, which: str) -> Page:
    """Nobody has reviews: the data has none."""
    nodes = [*_instruction(instruction), _button(BACK), _button(PREV)]
    if which == "Description":
        nodes.append(Node(product.description, html='<p class="product-info">{}</p>'))
    elif which == "Features":
        bullet = '<li><p class="product-info">{}</p></li>'
        nodes += [Node(f" {each}", html=bullet) for each in product.bullets]
    elif which == "Attributes":
        nodes += [
            Node(f" {each}", html='<p class="attribute">{}</p>') for each in product.attributes
        ]
        nodes += [
            Node(product.category, html='<h5 class="product-category">{}</h5>'),
            Node(product.query, html='<h5 class="product-query">{}</h5>'),
            Node(product.product_category, html='<h5 class="product-product_category">{}</h5>'),
        ]
    return nodes


def done_page(asin: str, options: Mapping[str, str], reward: float) -> Page:
    """The original leaves most of its fields empty, and says so: agents know the page like that."""
    chosen = json.dumps(dict(options), sort_keys=True)
    for character in "<>&'":
        chosen = chosen.replace(character, f"\\u{ord(character):04x}")
    head = ["Thank you for shopping with us!", "Your code: ", "None"]
    head.append(" (Paste it in your MTurk interface.)")
    purchased = ["Purchased", "asin", asin, "options", chosen, "attrs", "None", "category", "None"]
    purchased += ["query", "None", "product category", "None"]
    target = ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category"]
    target += ["product category", "query", "Goal ", "None"]
    return [
        *map(Node, [*head, *purchased, *target, "Reward"]),
        Node("Your score (min 0.0, max 1.0)", html='<h3 id="reward">{}'),
        Node(str(reward), html="<pre>{}</pre></h3>"),
        *map(Node, ["Reward Details ", "None"]),
    ]


def _visible(page: Page) -> Iterator[Node]:
    """An HTML parser drops white space that has a line break, and makes one space of any other."""
    for node in page:
        if node.text.strip():
            yield node
        elif node.text and "\n" not in node.text:
            yield Node(" ", node.kind, node.html, node.name)


def as_text(page: Page) -> str:
    return _SEP.join(node.text.strip() for node in _visible(page))


def as_rich_text(page: Page, seen: Seen) -> str:
    text = ""
    for node in _visible(page):
        shown = node.text
        if node.kind is Kind.BUTTON:
            shown = f"[button] {node.text} [button_]"
        elif node.kind is Kind.OPTION and f'"{node.text}"' in seen.url:
            shown = f"  [clicked button] {node.text} [clicked button_]"
            text = f"You have clicked {node.text}.\n" + text
        elif node.kind is Kind.OPTION:
            shown = f"  [button] {node.text} [button_]"
        elif node.kind is Kind.PRODUCT:
            mark = "clicked button" if node.text in seen.asins else "button"
            shown = f"\n[{mark}] {node.text} [{mark}_]"
        text += shown + "\n"
    return text


def as_html(page: Page) -> str:
    body = "\n".join(node.html.format(escape(node.text)) for node in page)
    return f"<!DOCTYPE html>\n<html>\n<body>\n{body}\n</body>\n</html>"


def clickables(page: Page) -> dict[str, Node]:
    """By what is to be said in `click[…]`: buttons, products, then options, as the original lists them."""
    found: dict[str, Node] = {}
    for kind in (Kind.BUTTON, Kind.PRODUCT):
        found.update({node.text.lower(): node for node in page if node.kind is kind})
    found.update({node.text: node for node in page if node.kind is Kind.OPTION})
    return found


def observed(mode: str, page: Page, seen: Seen) -> str:
    """`mode` is one of OBSERVATIONS."""
    if mode == "text":
        return as_text(page)
    if mode == "text_rich":
        return as_rich_text(page, seen)
    return as_html(page) if mode == "html" else seen.url
