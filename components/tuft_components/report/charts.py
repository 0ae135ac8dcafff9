"""Charts as SVG, written by hand: a page that shows them needs no scripts, no network, and whoever
makes it no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tuft_components.report.history import History

TRAINING, HELD_OUT = "#2563eb", "#ea580c"
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 52, 14, 14, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points in order of x; joined by a line, or marks alone. What is not finite is left out."""

    name: str
    points: Sequence[Point]
    color: str = TRAINING
    joined: bool = True

    def finite(self) -> list[Point]:
        return [point for point in self.points if all(map(math.isfinite, point))]


def reward_chart(history: History) -> str:
    """Training and held-out reward over the updates so far.

    The episodes of iteration n were sampled after n - 1 updates.
    """
    series = [
        Series("training episodes", [(i.number - 1, i.reward) for i in history.iterations]),
        Series(
            "held-out episodes",
            [(e.iteration, e.reward) for e in history.evaluations],
            HELD_OUT,
            joined=False,
        ),
    ]
    return chart("mean reward", [one for one in series if one.points], height=340, include=(0, 1))


def chart(
    title: str,
    series: Sequence[Series],
    *,
    width: int = 720,
    height: int = 220,
    include: Sequence[float] = (),
) -> str:
    """An SVG element. The y axis reaches over all points, and over `include`."""
    points = [point for one in series for point in one.finite()]
    if not points:
        return f"<p>{escape(title)}: no numbers yet.</p>"
    frame = _Frame.around(points, include, width, height)
    opening = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, sans-serif" font-size="12">'
    )
    parts = [opening, *frame.grid()]
    for number, one in enumerate(series):
        parts += _drawn(one, frame)
        if len(series) > 1:
            parts.append(_legend(one, number, height))
    parts.append("</svg>")
    return "\n".join(parts)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` or below to `high` or above, about as many."""
    span = high - low or max(abs(high), 1.0)
    rough = span / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """From numbers to places in the picture."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    width: int
    height: int

    @classmethod
    def around(
        cls, points: Sequence[Point], include: Sequence[float], width: int, height: int
    ) -> _Frame:
        xs = [x for x, _ in points]
        ys = [y for _, y in points] + list(include)
        x_ticks = [tick for tick in ticks(min(xs), max(xs), 10) if tick == round(tick)]
        if len(x_ticks) < 2:
            x_ticks = [min(xs), max(xs) + (min(xs) == max(xs))]
        return cls(x_ticks, ticks(min(ys), max(ys), 5), width, height)

    def place(self, point: Point) -> tuple[str, str]:
        inner_width = self.width - _MARGIN_LEFT - _MARGIN_RIGHT
        inner_height = self.height - _MARGIN_TOP - _MARGIN_BOTTOM
        (left, *_, right), (low, *_, high) = self.x_ticks, self.y_ticks
        x = _MARGIN_LEFT + (point[0] - left) / (right - left) * inner_width
        y = _MARGIN_TOP + (high - point[1]) / (high - low) * inner_height
        return f"{x:.1f}", f"{y:.1f}"

    def grid(self) -> list[str]:
        bottom, lines = self.height - _MARGIN_BOTTOM, []
        for tick in self.y_ticks:
            _, y = self.place((self.x_ticks[0], tick))
            lines.append(
                f'<line x1="{_MARGIN_LEFT}" x2="{self.width - _MARGIN_RIGHT}" y1="{y}" y2="{y}" '
                f'stroke="#e5e7eb"/><text x="{_MARGIN_LEFT - 6}" y="{y}" dy="4" fill="#6b7280" '
                f'text-anchor="end">{number_text(tick)}</text>'
            )
        for tick in self.x_ticks:
            x, _ = self.place((tick, self.y_ticks[0]))
            lines.append(
                f'<text x="{x}" y="{bottom + 16}" fill="#6b7280" text-anchor="middle">'
                f"{number_text(tick)}</text>"
            )
        middle = (self.width + _MARGIN_LEFT) // 2
        lines.append(
            f'<text x="{middle}" y="{self.height - 6}" fill="#6b7280" text-anchor="middle">'
            "updates</text>"
        )
        return lines


def _drawn(series: Series, frame: _Frame) -> list[str]:
    placed = [(point, frame.place(point)) for point in series.finite()]
    parts = []
    if series.joined and len(placed) > 1:
        path = " ".join(f"{x},{y}" for _, (x, y) in placed)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{series.color}" stroke-width="2"/>'
        )
    radius = 3.5 if series.joined else 5.5
    parts += [
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{series.color}">'
        f"<title>{escape(series.name)}, {number_text(after)} updates: {number_text(value)}</title>"
        "</circle>"
        for (after, value), (x, y) in placed
    ]
    return parts


def _legend(series: Series, number: int, height: int) -> str:
    x, y = _MARGIN_LEFT + 14 + 160 * number, height - _MARGIN_BOTTOM - 12
    return (
        f'<circle cx="{x}" cy="{y}" r="5" fill="{series.color}"/>'
        f'<text x="{x + 10}" y="{y}" dy="4" fill="#374151">{escape(series.name)}</text>'
    )


def number_text(value: float) -> str:
    """Short: 3, 0.25, 1.2e-07."""
    return f"{value:.4g}"
