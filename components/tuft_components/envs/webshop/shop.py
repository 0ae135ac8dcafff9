"""The shop, and one visit to it: what `search[…]` and `click[…]` do.

Our own engine, which goes from page to page as princeton-nlp/WebShop does (envs/web_agent_text_env.py;
MIT). Where that would raise, for a special query that finds nothing say, there is an empty page here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tuft_components.envs.webshop import pages
from tuft_components.envs.webshop.catalogue import Goal, Product
from tuft_components.envs.webshop.goals import goals_of
from tuft_components.envs.webshop.nouns import Nouns, token_nouns
from tuft_components.envs.webshop.reward import Score, score
from tuft_components.envs.webshop.search import ProductSearch

BASE_URL = "http://127.0.0.1:3000"
_ACTION = re.compile(r"(.+)\[(.+)\]")
_SEARCH, _RESULTS, _ITEM, _SUB, _DONE = "search", "results", "item", "sub", "done"


class Shop:
    """Products, goals and the search; shared by all visits.

    Raises:
        ValueError: there is no goal.
    """

    def __init__(
        self,
        products: Sequence[Product],
        *,
        human: bool = False,
        show_attributes: bool = False,
        nouns: Nouns = token_nouns,
    ) -> None:
        self.products = products
        self.by_asin = {product.asin: product for product in products}
        self._by_lower = {product.asin.lower(): product for product in products}
        self.goals = goals_of(products, human=human)
        if not self.goals:
            kind = "instructions of people" if human else "instructions"
            raise ValueError(
                f"the catalogue of {len(products)} products has no {kind} with attributes"
            )
        self.search = ProductSearch(products)
        self.show_attributes = show_attributes
        self.nouns = nouns

    def clicked(self, asin: str) -> Product:
        """By the text of its link."""
        return self._by_lower[asin.lower()]

    def reward(self, bought: Product, goal: Goal, options: Mapping[str, str]) -> Score:
        return score(bought, goal, options, nouns=self.nouns)


@dataclass(frozen=True)
class Step:
    """`ok`: the action was one that the page allows; else nothing happened."""

    ok: bool
    reward: float = 0.0
    done: bool = False


class Visit:
    """One goal, from the search page to `click[buy now]`."""

    def __init__(self, shop: Shop, goal: int, session: str = "") -> None:
        """Raises:
        ValueError: no such goal.
        """
        if not 0 <= goal < len(shop.goals):
            raise ValueError(f"no goal {goal}: there are 0 to {len(shop.goals) - 1}")
        self.shop, self.number, self.goal = shop, goal, shop.goals[goal]
        self.score: Score | None = None
        self.product: Product | None = None
        self.options: dict[str, str] = {}
        self._keywords: list[str] = []
        self._hits: list[Product] = []
        self._session = session or str(goal)
        self._random = Random(f"webshop/{goal}")
        self._start()

    @property
    def instruction(self) -> str:
        return self.goal.instruction

    @property
    def has_search_bar(self) -> bool:
        return self._where == _SEARCH

    @property
    def clickables(self) -> list[str]:
        return list(pages.clickables(self.page))

    @property
    def done(self) -> bool:
        return self._where == _DONE

    def observation(self, mode: str) -> str:
        return pages.observed(mode, self.page, pages.Seen(self.url, self._asins))

    def step(self, action: str) -> Step:
        """What the original does for the action; what it does nothing for is not `ok`."""
        parts = _ACTION.match(action)
        if parts is None or self.done:
            return Step(ok=False)
        name, said = parts[1], parts[2].lower()
        if name == "search":
            self._keywords = said.split(" ")
            self._hits = self.shop.search.search(self._keywords, self._random)
            self._results(1)
            return Step(ok=True)
        target = pages.clickables(self.page).get(said)
        if name != "click" or target is None or said == "search":
            return Step(ok=False)
        return self._click(said, target)

    def shelve(self, products: Sequence[Product]) -> None:
        """Show these as if a search had found them."""
        self._keywords, self._hits = [], list(products)
        self._results(1)

    def _click(self, said: str, target: pages.Node) -> Step:
        if said == pages.BUY.lower():
            return self._buy()
        if said == pages.BACK.lower():
            self._start()
        elif said == pages.NEXT.lower() and self._where == _RESULTS:
            self._results(self._page_number + 1)
        elif said == pages.PREV.lower():
            self._back()
        elif said in (which.lower() for which in [*pages.SUB_PAGES, "Attributes"]):
            self._sub_page(said.capitalize())
        else:
            if target.kind is pages.Kind.PRODUCT:
                self.product = self.shop.clicked(said)
                self._asins.add(self.product.asin)
            elif target.kind is pages.Kind.OPTION:
                self.options[target.name] = said
            self._item()
        return Step(ok=True)

    def _start(self) -> None:
        self._keywords, self._hits = [], []
        self._asins: set[str] = set()
        self._page_number = 1
        self.product, self.options = None, {}
        self._where, self.url = _SEARCH, f"{BASE_URL}/{self._session}"
        self.page = pages.search_page(self.instruction)

    def _results(self, number: int) -> None:
        self._page_number = number
        self.product, self.options = None, {}
        self._go(_RESULTS, f"search_results/{self._session}/{'+'.join(self._keywords)}/{number}")
        self.page = pages.results_page(self.instruction, self._hits, number)

    def _back(self) -> None:
        if self._where == _RESULTS:
            self._results(self._page_number - 1)
        elif self._where == _ITEM:
            self._results(self._page_number)
        else:
            self._item()

    def _item(self) -> None:
        assert self.product is not None
        self._go(_ITEM, f"item_page/{self._place()}/{json.dumps(self.options)}")
        self.page = pages.item_page(self.instruction, self.product, self.shop.show_attributes)

    def _sub_page(self, which: str) -> None:
        assert self.product is not None
        self._go(_SUB, f"item_sub_page/{self._place()}/{which}/{self.options}")
        self.page = pages.sub_page(self.instruction, self.product, which)

    def _buy(self) -> Step:
        assert self.product is not None
        self.score = self.shop.reward(self.product, self.goal, self.options)
        self._go(_DONE, f"done/{self._session}/{self.product.asin}/{self.options}")
        self.page = pages.done_page(self.product.asin, self.options, self.score.reward)
        return Step(ok=True, reward=self.score.reward, done=True)

    def _place(self) -> str:
        assert self.product is not None
        keywords = "+".join(self._keywords)
        return f"{self._session}/{self.product.asin}/{keywords}/{self._page_number}"

    def _go(self, where: str, path: str) -> None:
        self._where, self.url = where, f"{BASE_URL}/{path}"
