"""How far a rollout is, on stderr."""

from __future__ import annotations

import sys
import time

from tuft_components.episodes import Limits

_EVERY_S = 10.0


class Progress:
    """One line every ten seconds, from the tenth second on: short rollouts say nothing.

    It also keeps the two budgets, since it knows what was used.
    """

    def __init__(self, episodes: int, limits: Limits) -> None:
        """`episodes`: how many there are to play."""
        self._episodes = episodes
        self._limits = limits
        self._begun = self._told = time.monotonic()
        self._done = self._failed = self.tokens = 0
        self._reward = 0.0

    def sampled(self, tokens: int) -> None:
        """That many new tokens came."""
        self.tokens += tokens
        self._tell()

    def finished(self, reward: float, *, failed: bool) -> None:
        """An episode ended, with this reward in all."""
        self._done += 1
        self._failed += failed
        self._reward += 0.0 if failed else reward
        self._tell()

    def used_up(self) -> bool:
        """Whether one of the budgets is."""
        tokens = 0 < self._limits.token_budget <= self.tokens
        return tokens or 0 < self._limits.time_budget_s <= self.seconds()

    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < _EVERY_S:
            return
        self._told = now
        good = self._done - self._failed
        mean = f", mean reward {self._reward / good:.3f}" if good else ""
        failed = f", {self._failed} failed" if self._failed else ""
        sys.stderr.write(
            f"{self._done} of {self._episodes} episodes{failed}, "
            f"{self.tokens / self.seconds():.0f} tokens/s{mean}\n"
        )
        sys.stderr.flush()
