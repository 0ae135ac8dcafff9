"""Whether a policy is good enough to be published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gate = Literal["none", "threshold", "baseline", "both"]


@dataclass(frozen=True)
class Verdict:
    """`why` is a sentence for people, whichever it is."""

    promoted: bool
    why: str


@dataclass(frozen=True)
class Bar:
    """What a metric is held against.

    `threshold`: it must reach it. `baseline`: it must beat it by more than `min_gain`. Where
    `higher_is_better` is not set, both are meant the other way round.
    """

    gate: Gate
    threshold: float
    baseline: float
    min_gain: float
    higher_is_better: bool

    def verdict(self, name: str, metric: float) -> Verdict:
        """A metric that is no number passes no gate."""
        if self.gate == "none":
            return Verdict(True, "no gate was asked for")
        sign = 1.0 if self.higher_is_better else -1.0
        parts, passed = [], True
        if self.gate in ("threshold", "both"):
            reached = sign * metric >= sign * self.threshold
            parts.append(f"{'reaches' if reached else 'misses'} the threshold {self.threshold:g}")
            passed = passed and reached
        if self.gate in ("baseline", "both"):
            beaten = sign * (metric - self.baseline) > self.min_gain
            by = f" by more than {self.min_gain:g}" if self.min_gain else ""
            parts.append(
                f"{'beats' if beaten else 'does not beat'} the baseline {self.baseline:g}{by}"
            )
            passed = passed and beaten
        return Verdict(passed, f"{name} {metric:g} {' and '.join(parts)}")
