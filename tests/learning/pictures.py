"""A curve as a picture, and what was reached as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from tests.learning.curves import Curve
from tests.learning.runs import ARMS, Result

_COLOURS = {"learning": "#1f6feb", "control": "#8b949e"}


def draw(name: str, curve: Curve, chance: float, results: Sequence[Result], file: Path) -> None:
    """Held-out rewards of all seeds over the number of updates, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for result in results:
        updates, rewards = zip(*result.held_out, strict=True)
        first = result.seed == min(each.seed for each in results if each.arm == result.arm)
        label = "learning" if result.arm == "learning" else "control: learning rate 0"
        axes.plot(
            updates,
            rewards,
            marker="o",
            markersize=3,
            color=_COLOURS[result.arm],
            label=label if first else None,
        )
    axes.axhline(chance, color="#d29922", linestyle=":", label="at random")
    axes.axhline(curve.best, color="#3fb950", linestyle=":", label="best play")
    axes.axhline(curve.reach, color="#f85149", linestyle="--", linewidth=0.8, label="to reach")
    axes.set(title=name, xlabel="updates", ylabel="mean held-out reward", ylim=(-0.05, 1.05))
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=110)


def row(name: str, curve: Curve, chance: float, results: Sequence[Result]) -> str:
    """A line of the table in docs/learning.md."""
    cells = [f"`{name}`", f"{chance:.2f}", f"{curve.best:.2f}", f"{curve.reach:.2f}"]
    for arm in ARMS:
        those = [result for result in results if result.arm == arm]
        ends = ", ".join(f"{each.held_out[-1][1]:.2f}" for each in those)
        begin = mean(each.held_out[0][1] for each in those) if those else 0.0
        cells.append(f"{begin:.2f} → {ends}" if those else "not run")
    learnt = [result.seconds for result in results if result.arm == "learning"]
    cells.append(f"{mean(learnt) / 60:.0f} min" if learnt else "")
    return f"| {' | '.join(cells)} |"
