from __future__ import annotations

import base64
import re
import struct
from html.parser import HTMLParser

import pytest

from tuft_pipelines.report import (
    Evaluation,
    History,
    Iteration,
    draw_curve,
    render_page,
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


class Page(HTMLParser):
    """Tags that opened and did not close, the text of cells, and external references."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.cells and self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def test_page_is_whole_and_needs_nothing_else() -> None:
    picture = draw_curve(HISTORY)
    page = Page()
    text = render_page(HISTORY, picture)
    page.feed(text)
    page.close()
    assert page.open == []
    [reference] = page.references
    assert base64.b64decode(reference.removeprefix("data:image/png;base64,")) == picture
    assert re.search(r"https?://", text) is None


def test_page_has_every_number_and_escapes_texts() -> None:
    page = Page()
    text = render_page(HISTORY, b"")
    page.feed(text)
    assert page.cells[0][-1] == "grad_norm"
    assert {len(row) for row in page.cells} == {6}
    assert [(row[0], row[1]) for row in page.cells[1:]] == [
        ("held-out", "0.300"),
        ("iteration 1", "0.250"),
        ("iteration 2", "0.500"),
        ("held-out", "0.969"),
    ]
    assert page.cells[2][-1] == "1.5"
    assert "Second &lt;word&gt;" in text
    assert "tinker://a&amp;b/weights/final" in text
    assert "0.30 → 0.97" in text
