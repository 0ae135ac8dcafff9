"""WebShop: buy what an instruction asks for, in a shop of pages.

Our own engine, compatible with princeton-nlp/WebShop (Yao et al. 2022): the same actions, pages, goals and
reward. It comes with a generated catalogue, reads the original's data files, and plays at a running
AgentGym server as well: `webshop:http://host:port`. `docs/environments/webshop.md` tells how.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from tuft_components.envs.base import EnvironmentFamily
from tuft_components.envs.choose import CHOOSING
from tuft_components.envs.families import FamilyOf
from tuft_components.envs.presenting import presented
from tuft_components.envs.webshop.choosing import Guided, Shelf, chances
from tuft_components.envs.webshop.client import AgentGymShop
from tuft_components.envs.webshop.data_files import products_of, read_json
from tuft_components.envs.webshop.environment import INTRODUCTION, Goals, WebShop
from tuft_components.envs.webshop.generated import Settings, generate
from tuft_components.envs.webshop.goals import split_of
from tuft_components.envs.webshop.nouns import nouns_by
from tuft_components.envs.webshop.pages import OBSERVATIONS
from tuft_components.envs.webshop.shop import Shop

_SHELF = ("shown", "shelf")


def webshop(
    server: str = "",
    *,
    mode: str = "text",
    observation: str = "text",
    introduction: str = INTRODUCTION,
    **rest: Any,
) -> EnvironmentFamily:
    """
    Args:
        server: the URL of an AgentGym server; empty: our own engine.
        mode: text, chat (user messages), choose or words (`tuft_components.envs.webshop.choosing`).
        observation: text, text_rich, html or url; what a server shows is up to the server.
        introduction: before the first page; may be empty.
        rest: of a server, what `AgentGymShop` takes; else what `shop` takes, and in the modes choose
            and words what `Shelf` takes (`kind` is called `shelf`).

    Raises:
        TypeError, ValueError: an argument that can't be.
        BadConfiguration, BadData: data files that can't be read.
    """
    if server:
        if mode in CHOOSING:
            raise ValueError(
                f"mode is {mode!r}, which a server has no lists for; there are: text, chat"
            )

        def connect() -> AgentGymShop:
            return AgentGymShop(server, introduction=introduction, **rest)

        return presented(FamilyOf(connect(), connect), mode)
    if observation not in OBSERVATIONS:
        raise ValueError(f"observation is {observation!r}; there are: {', '.join(OBSERVATIONS)}")
    shelf = _shelf(rest) if mode in CHOOSING else None
    if mode in CHOOSING:
        rest = {"asked": 1, "options": 1, **rest} if "items" not in rest else rest
    own = shop(**rest)
    goals = Goals(own)

    def make() -> WebShop | Guided:
        if shelf is not None:
            return Guided(own, goals, shelf)
        return WebShop(own, goals, observation, introduction)

    return presented(FamilyOf(make(), make), mode)


def _shelf(rest: dict[str, Any]) -> Shelf:
    """Takes its arguments out."""
    given = {name: rest.pop(name) for name in _SHELF if name in rest}
    if "shelf" in given:
        given["kind"] = given.pop("shelf")
    return Shelf(**given)


def shop(
    *,
    items: str = "",
    attributes: str = "",
    goals: str = "",
    products: int | None = None,
    show_attributes: bool = False,
    nouns: str = "tokens",
    **settings: int,
) -> Shop:
    """
    Args:
        items, attributes, goals: paths of the original's data files: items_shuffle_1000.json,
            items_ins_v2_1000.json and, for what people asked for, items_human_ins.json. Without
            `goals`, there is a goal for each combination of options. Without `items`, the
            catalogue is generated.
        products: how many of them; of a generated catalogue 200, where it is not said.
        show_attributes: whether products have a page with their attributes.
        nouns: tokens or spacy, see `tuft_components.envs.webshop.nouns`.
        settings: of the generated catalogue: seed, asked, options, values.
    """
    if products is not None and products < 1:
        raise ValueError(f"products is {products}; it must be 1 or more")
    if bool(items) != bool(attributes) or (goals and not items):
        raise ValueError("give items and attributes, both or neither; goals only with them")
    if items and settings:
        raise ValueError(f"{', '.join(settings)}: only a generated catalogue has such settings")
    files = tuple((path, _stamp(path)) for path in (items, attributes, goals) if path)
    if not files:
        counted = {} if products is None else {"products": products}
        return _generated(Settings(**counted, **settings), show_attributes, nouns)
    return _loaded(files, products, show_attributes, nouns)


def _stamp(path: str) -> int:
    """A file that was written anew is read anew."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0  # reading it will tell


@lru_cache(maxsize=4)
def _generated(settings: Settings, show_attributes: bool, nouns: str) -> Shop:
    products = products_of(*generate(settings))
    return Shop(products, show_attributes=show_attributes, nouns=nouns_by(nouns))


@lru_cache(maxsize=1)
def _loaded(
    files: tuple[tuple[str, int], ...], count: int | None, show_attributes: bool, nouns: str
) -> Shop:
    (items, _), (attributes, _), *more = files
    human = read_json(more[0][0], dict) if more else None
    products = products_of(
        read_json(items, list), read_json(attributes, dict), human, limit=count, source=items
    )
    return Shop(products, human=bool(more), show_attributes=show_attributes, nouns=nouns_by(nouns))


def scores(split: str = "eval", *, turns: int = 8, **args: Any) -> dict[str, float]:
    """What random and best play win in the mode choose with these `env_args`, computed over all goals of
    the split: `random` and `best` are mean rewards, `random_wins` is how often random play gets 1."""
    rest = {"asked": 1, "options": 1, **args} if "items" not in args else dict(args)
    rest.pop("mode", None)
    shelf = _shelf(rest)
    own = shop(**rest)
    return chances(own, split_of(own.goals, split), shelf, turns)
