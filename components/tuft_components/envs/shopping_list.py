"""A light environment with tools: what does a shopping list cost?

The prices are known to the tool `price` only, so that guessing wins nothing; `calculate` adds and
multiplies. The answer is plain text that ends with the total.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

from tuft_components.envs.base import SPLITS, Task, Turn
from tuft_components.envs.with_tools import WithTools, tool

_ITEMS = ("pen", "book", "lamp", "chair", "cup", "plate", "clock", "scarf", "ball", "brush")
_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_LONGEST = 200
_SYSTEM = (
    "Use the tools to find prices and to calculate. When you know the total, say it as a number, "
    "without a tool call."
)


class ShoppingList(WithTools):
    """Reward 1 where the answer's last number is the total, else 0; the answer ends the episode."""

    def __init__(self, *, items: int = 2) -> None:
        """`items` different ones are on the list.

        Raises:
            ValueError: they are not 1 to 10.
        """
        super().__init__()
        if not 1 <= items <= len(_ITEMS):
            raise ValueError(f"items must be 1 to {len(_ITEMS)}")
        self._items = items
        self._prices: Mapping[str, int] = {}
        self._total = 0

    def begin(self, task: Task) -> Turn:
        if task.split not in SPLITS:
            raise ValueError(f"no split {task.split!r}; there are: {', '.join(SPLITS)}")
        random = task.random()
        self._prices = {item: random.randint(2, 99) for item in _ITEMS}
        wanted = {item: random.randint(1, 9) for item in random.sample(_ITEMS, self._items)}
        self._total = sum(count * self._prices[item] for item, count in wanted.items())
        words = ", ".join(f"{count} x {item}" for item, count in wanted.items())
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": f"What do these cost together: {words}?"},
        ]
        return Turn(messages, info={"reference": self._total})

    @tool
    def price(self, item: str) -> int:
        """The price of one piece.

        item: its name, such as pen
        """
        if item not in self._prices:
            raise ValueError(f"there is no {item!r}; there are: {', '.join(self._prices)}")
        return self._prices[item]

    @tool
    def calculate(self, expression: str) -> int:
        """The value of an expression with whole numbers, +, -, * and brackets.

        expression: such as 3 * 12 + 5
        """
        return calculated(expression)

    def answered(self, text: str) -> Turn:
        numbers = re.findall(r"-?\d+", text.replace(",", ""))
        right = bool(numbers) and numbers[-1] == str(self._total)
        error = "" if numbers else "the answer is a number"
        info = {"reference": self._total}
        return Turn(reward=float(right), done=True, error=error, info=info)


def calculated(expression: str) -> int:
    """The value, by looking at the expression's tree: nothing in it is executed.

    Raises:
        ValueError: it is something else than whole numbers, +, -, * and brackets.
    """
    right = "give whole numbers with +, -, * and brackets"
    if len(expression) > _LONGEST:
        raise ValueError(f"{right}, of no more than {_LONGEST} characters")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, KeyError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(right) from error


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise KeyError(type(node))
