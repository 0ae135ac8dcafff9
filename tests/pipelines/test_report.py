"""The table and the picture of a pipeline run; tests/components/test_report.py has the page."""

from __future__ import annotations

import struct

import pytest

from tuft_pipelines.report import (
    Evaluation,
    History,
    Iteration,
    draw_curve,
    render_table,
)
from tuft_pipelines.report.table import bar

HISTORY = History(
    title="Second <word>",
    iterations=[
        Iteration(1, 0.25, 64, 9.26, {"grad_norm": 1.5}),
        Iteration(2, 0.5, 64, 10.0),
    ],
    evaluations=[Evaluation(0, 0.3, 96), Evaluation(2, 0.96875, 96)],
    facts={"checkpoint": "tinker://a&b/weights/final"},
)


def test_table_has_evaluations_where_they_happened() -> None:
    rows = [line.split() for line in render_table(HISTORY).splitlines()]
    assert rows[0] == ["reward", "episodes", "seconds"]
    assert [row[:2] for row in rows[1:]] == [
        ["held-out", "0.300"],
        ["iteration", "1"],
        ["iteration", "2"],
        ["held-out", "0.969"],
    ]
    assert rows[2][2:5] == ["0.250", "64", "9.3"]


@pytest.mark.parametrize(
    ("reward", "length"), [(0.0, 0), (1.0, 30), (0.5, 15), (1.7, 30), (-1.0, 0), (0.51, 16)]
)
def test_bar_is_proportional_and_stays_in_its_width(reward: float, length: int) -> None:
    assert len(bar(reward)) == length


def test_curve_is_a_png_of_readable_size() -> None:
    picture = draw_curve(HISTORY)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (900, 480)
    assert len(picture) < 100_000


def test_curve_follows_the_rewards() -> None:
    other = History("Second <word>", [Iteration(1, 0.9, 64, 1.0)], HISTORY.evaluations)
    assert draw_curve(HISTORY) == draw_curve(HISTORY)
    assert draw_curve(HISTORY) != draw_curve(other)
