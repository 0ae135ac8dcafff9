"""A tiny grid: walk from a corner to the goal, around a wall.

Several turns with a reward each: 1 for arriving, less 0.05 for every move. Moves are one of four,
so that a random walk can be computed, as can the best way (`best_score`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from tuft_components.envs.base import SPLITS, EnvironmentFamily, Task, Turn
from tuft_components.envs.choose import maybe_choosing
from tuft_components.envs.families import FamilyOf

Place = tuple[int, int]
MOVES: Mapping[str, Place] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_COST = 0.05


def grid(*, size: int = 3, moves: int = 8, mode: str = "text") -> EnvironmentFamily:
    """`size` × `size` fields. `mode`: text (say `up`, `down`, `left` or `right`), choose or words.

    Raises:
        ValueError: an argument that can't be.
    """
    if not 2 <= size <= 9 or moves < 1:
        raise ValueError("size must be 2 to 9, and moves 1 or more")

    def make() -> Grid:
        return Grid(size, moves)

    return maybe_choosing(mode, ["text"], lambda: FamilyOf(make(), make))


class Grid:
    """Shown as rows of `.`, `#` (the wall), `A` (you) and `G`."""

    stop = ("\n",)

    def __init__(self, size: int, moves: int) -> None:
        self._size, self._moves = size, moves
        self._left = 0
        self._here = self._goal = self._wall = (0, 0)

    async def reset(self, task: Task) -> Turn:
        if task.split not in SPLITS:
            raise ValueError(f"no split {task.split!r}; there are: {', '.join(SPLITS)}")
        random = task.random()
        fields = [(row, column) for row in range(self._size) for column in range(self._size)]
        while True:
            self._here, self._goal, self._wall = random.sample(fields, 3)
            distance = self.distance()
            if distance is not None and distance <= self._moves:
                break
        self._left = self._moves
        return self._said(f"Walk A to G. Say up, down, left or right.\n{self.shown()}\nMove:")

    async def step(self, action: str) -> Turn:
        self._left -= 1
        words = action.split()
        move = MOVES.get(words[0].lower()) if words else None
        ended = "" if action.endswith("\n") else "\n"
        if move is None:
            error = "say up, down, left or right"
            return self._said(f"{ended}{error}\nMove:", error=error)
        row, column = self._here[0] + move[0], self._here[1] + move[1]
        inside = 0 <= row < self._size and 0 <= column < self._size
        error = "" if inside and (row, column) != self._wall else "there is a wall"
        if not error:
            self._here = (row, column)
        if self._here == self._goal:
            return Turn(reward=1 - _COST, done=True, info=self._info())
        return self._said(f"{ended}{error or self.shown()}\nMove:", error=error)

    def _said(self, text: str, *, error: str = "") -> Turn:
        began = self._left == self._moves
        return Turn(
            text,
            reward=0.0 if began else -_COST,
            done=self._left == 0,
            actions=tuple(MOVES),
            error=error,
            info=self._info(),
        )

    def _info(self) -> dict[str, int]:
        return {"moves_left": self._left}

    def shown(self) -> str:
        marks = {self._wall: "#", self._goal: "G", self._here: "A"}
        numbers = range(self._size)
        return "\n".join(
            "".join(marks.get((row, column), ".") for column in numbers) for row in numbers
        )

    def distance(self) -> int | None:
        """Moves of the shortest way; None: there is none."""
        seen, open_ = {self._here: 0}, deque([self._here])
        while open_:
            here = open_.popleft()
            if here == self._goal:
                return seen[here]
            for move in MOVES.values():
                there = (here[0] + move[0], here[1] + move[1])
                inside = all(0 <= number < self._size for number in there)
                if inside and there != self._wall and there not in seen:
                    seen[there] = seen[here] + 1
                    open_.append(there)
        return None

    def best_score(self) -> float:
        """Of the task that has begun."""
        distance = self.distance()
        assert distance is not None
        return 1 - _COST * distance
