"""Products from data files of princeton-nlp/WebShop (MIT), with the same keys.

`items_shuffle*.json` is a list of products, `items_ins_v2*.json` an object of attributes and tasks by
asin, `items_human_ins.json` an object of what people asked for by asin. They are not shipped:
WebShop's `setup.sh` says where to get them. The generated catalogue has the same keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuft_components.envs.webshop.catalogue import NO_PRICE, Product
from tuft_components.errors import BadConfiguration, BadData

_LONGEST_ASIN = 10
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def read_json(path: str, kind: type) -> Any:
    """What a data file holds; `kind` is what it must be: a list or a dict.

    Raises:
        BadConfiguration: it can't be opened. BadData: it is no JSON, or of another kind.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            held = json.load(file)
    except OSError as error:
        raise BadConfiguration(f"can't read WebShop's data file {path}: {error}") from error
    except ValueError as error:
        raise BadData(f"WebShop's data file {path} is no JSON: {error}") from error
    if not isinstance(held, kind):
        wanted = "a list of products" if kind is list else "an object with an entry for each asin"
        raise BadData(f"WebShop's data file {path} holds a {type(held).__name__}, not {wanted}")
    return held


def products_of(
    items: Sequence[Any],
    attributes: Mapping[str, Any],
    instructions: Mapping[str, Any] | None = None,
    *,
    limit: int | None = None,
    source: str = "items",
) -> list[Product]:
    """Of the first `limit` items; such as have no proper asin, or one that was there, are left out.

    Raises:
        BadData: naming the item that is not as it must be.
    """
    found: dict[str, Product] = {}
    for number, item in enumerate(items[:limit]):
        asin = item.get("asin") if isinstance(item, Mapping) else None
        if not isinstance(asin, str):
            raise BadData(f"{source}: item {number} is no object with an asin")
        if asin == "nan" or len(asin) > _LONGEST_ASIN or asin in found:
            continue
        try:
            found[asin] = _product(item, attributes.get(asin, {}), (instructions or {}).get(asin))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
            raise BadData(f"{source}: item {number} ({asin}) {what}") from error
    if not found:
        raise BadData(f"{source}: no product")
    return list(found.values())


def _product(item: Mapping[str, Any], known: Mapping[str, Any], said: Any) -> Product:
    bullets = item["small_description"]
    images = item.get("images") or [""]
    return Product(
        asin=item["asin"],
        title=_text(item, "name"),
        description=_text(item, "full_description"),
        bullets=[str(each) for each in (bullets if isinstance(bullets, list) else [bullets])],
        category=_text(item, "category"),
        query=_text(item, "query").lower().strip(),
        product_category=_text(item, "product_category"),
        prices=_prices(item.get("pricing")),
        options=dict(_options(item["customization_options"])),
        attributes=_texts(known, "attributes") or ["DUMMY_ATTR"],
        image=str(images[0]),
        task=_task(known),
        instructions=list(map(_instruction, said or ())),
    )


def _text(item: Mapping[str, Any], key: str) -> str:
    text = item[key]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{key} is no text, but {type(text).__name__}")
    return text or ""


def _texts(held: Mapping[str, Any], key: str) -> list[str]:
    texts = held.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is no list of texts")
    return texts


def _prices(pricing: str | None) -> list[float]:
    """`$10.99`, or a range as `$10.99$12.50`."""
    if not pricing:
        return [NO_PRICE]
    prices = []
    for part in pricing.split("$")[1:]:
        number = re.sub(r"[^\d.]", "", part)
        if not _NUMBER.fullmatch(number):
            raise ValueError(f"pricing is {pricing!r}; it must be as $10.99 or $10.99$12.50")
        prices.append(float(number))
    if not prices:
        raise ValueError(f"pricing is {pricing!r}; it must be as $10.99 or $10.99$12.50")
    return prices[:2]


def _options(customization: Mapping[str, Any] | None) -> Iterator[tuple[str, list[str]]]:
    for name, contents in (customization or {}).items():
        if contents is not None:
            values = [content["value"].strip().replace("/", " | ").lower() for content in contents]
            yield name.lower(), values


def _task(known: Mapping[str, Any]) -> tuple[str, Sequence[str]] | None:
    instruction = known.get("instruction")
    if instruction is None:
        return None
    wanted = _texts(known, "instruction_attributes")
    if not isinstance(instruction, str) or not wanted:
        raise ValueError("it has an instruction, but no instruction_attributes")
    return instruction, wanted


def _instruction(said: Mapping[str, Any]) -> Mapping[str, Any]:
    options = said["instruction_options"]
    values = options.values() if isinstance(options, dict) else options
    if not isinstance(said["instruction"], str) or not isinstance(options, list | dict):
        raise TypeError("instruction is no text, or instruction_options neither list nor object")
    if not all(isinstance(value, str) for value in values):
        raise ValueError("instruction_options are no texts")
    return {
        "instruction": said["instruction"],
        "attributes": _texts(said, "instruction_attributes"),
        "options": options,
    }
