"""The report: from what steps left below a work_uri to one page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.components.samples import row, transition
from tuft_components.batches import write_batch
from tuft_components.errors import BadData
from tuft_components.kept_episodes import KeptEpisodes
from tuft_components.report.charts import Series, chart, ticks
from tuft_components.report.history import Evaluation, History, Iteration
from tuft_components.report.page import render_page
from tuft_components.report.records import StepTimes, history_of
from tuft_components.report.step import STEP
from tuft_components.report.transcripts import Transcript, spread
from tuft_components.turns import Turn
from tuft_components.work import Record, Work

HISTORY = History(
    title="Second <word>",
    iterations=[
        Iteration(1, 0.25, 64, 9.26, {"grad_norm": 1.5}),
        Iteration(2, 0.5, 64, 10.0),
    ],
    evaluations=[Evaluation(0, 0.3, 96), Evaluation(2, 0.96875, 96)],
    facts={"checkpoint": "tinker://a&b/weights/final"},
)


class Page(HTMLParser):
    """Tags that opened and did not close, the text of cells, and what could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.cells: list[list[str]] = []
        self.references: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "onload", "onclick")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.cells and self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    text = render_page(HISTORY)
    page = Page(text)
    assert page.open == []
    assert page.references == []
    assert page.tags.isdisjoint({"script", "img", "link", "iframe"})
    assert re.search(r"https?://", text) is None
    assert "default-src 'none'" in text


def test_a_page_has_every_number_and_escapes_texts() -> None:
    text = render_page(HISTORY)
    page = Page(text)
    assert page.cells[0][-1] == "grad_norm"
    assert {len(cells) for cells in page.cells} == {6}
    assert [(cells[0], cells[1]) for cells in page.cells[1:]] == [
        ("held-out", "0.300"),
        ("iteration 1", "0.250"),
        ("iteration 2", "0.500"),
        ("held-out", "0.969"),
    ]
    assert page.cells[2][-1] == "1.5"
    assert "Second &lt;word&gt;" in text
    assert "tinker://a&amp;b/weights/final" in text
    assert "0.30 → 0.97" in text


@pytest.mark.parametrize(
    ("history", "says"),
    [
        (History("t", [], []), "No rewards yet."),
        (History("t", [], [Evaluation(0, 0.5, 8)]), "held-out episodes: <b>0.50</b>"),
        (History("t", HISTORY.iterations[:1], []), "<b>0.25 → 0.25</b> after 1 iteration."),
    ],
)
def test_a_run_that_has_just_begun_has_a_page(history: History, says: str) -> None:
    text = render_page(history)
    assert Page(text).open == []
    assert says in text


def test_what_a_policy_says_is_text_whatever_it_is() -> None:
    evil = "</pre><script>alert(1)</script>\x00\x1b[31m\ud800"
    text = render_page(HISTORY, [Transcript("w <b>", 0.5, True, [Turn(evil, evil, "length")])])
    page = Page(text)
    assert "script" not in page.tags
    assert "</pre><script>alert(1)</script>\ufffd\ufffd[31m\ufffd" in page.texts
    assert "cut off at the token limit" in text
    text.encode()  # no half of a surrogate is left


def test_of_long_texts_the_middle_is_left_out() -> None:
    turn = Turn("a" * 500 + "b" * 500, "c", "stop")
    text = render_page(HISTORY, [Transcript("w", 0.5, False, [turn])], longest_text=100)
    assert "a" * 50 + "\n… 900 letters …\n" + "b" * 50 in text
    assert "a" * 51 not in text


def test_times_are_per_step() -> None:
    page = Page(render_page(HISTORY, times=[StepTimes("update", 4, 10.0)]))
    assert page.cells[-1] == ["update", "4", "10.0", "2.5"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0, [0, 0.2]),
        (3, 3, [3.0, 4.0]),
        (-0.001, 0.0012, [-0.001, -0.0005, 0, 0.0005, 0.001, 0.0015]),
        (1e-9, 5e-9, [1e-9, 2e-9, 3e-9, 4e-9, 5e-9]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, expected: Sequence[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_a_chart_has_each_point_at_its_place() -> None:
    points = [(0.0, 0.0), (1.0, float("nan")), (5.0, 0.5), (10.0, 1.0)]
    svg = ElementTree.fromstring(chart("t", [Series("a & b", points)], width=720, height=220))
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in svg.iter("circle")]
    assert circles == [(52, 180), (379, 97), (706, 14)]
    (line,) = svg.iter("polyline")
    assert line.attrib["points"].count(",") == 3
    titles = [title.text for title in svg.iter("title")]
    assert titles[1] == "a & b, 5 updates: 0.5"
    assert "no numbers yet" in chart("t", [Series("a", [(0, float("inf"))])])
    ElementTree.fromstring(chart("t", [Series("a", [(3, 0.5)]), Series("b", [(3, 0.5)])]))


def test_spread_takes_both_ends() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(["a", "b"], 4) == ["a", "b"]
    assert spread([1, 2, 3], 1) == [3]


def _record(step: str, **more: Any) -> Record:
    fields = {"params": {}, "values": {}, "metrics": {}, "artifacts": {}, **more}
    return Record(step=step, seconds=fields.pop("seconds", 1.0), finished_at=100.0, **fields)


def test_shards_of_a_rollout_play_at_the_same_time() -> None:
    judged = _record("feedback", metrics={"mean_reward": 0.5, "episodes": 8}, seconds=2)
    shards = [_record("rollout", shard=shard, seconds=10 + shard) for shard in range(3)]
    (iteration,) = history_of("t", [*shards, judged]).iterations
    assert (iteration.seconds, iteration.episodes, iteration.number) == (14, 8, 1)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """A run of two iterations with kept episodes, and judged by another reward than the
    environment's in the second; the second update is still to come."""
    work = Work(str(tmp_path / "work"))
    work.add(_record("start_run", params={"base_model": "tiny", "lora_rank": 4}))
    for iteration in (0, 1):
        name = f"rollout-{iteration:06d}"
        kept = KeptEpisodes(work.uri, name, shard=0, shards=1, decided_by={})
        kept.add(
            0,
            [
                transition(iteration=iteration, sample=0, env_reward=0.25),
                transition(iteration=iteration, sample=1, env_reward=0.75, completion_text="<hi>"),
            ],
        )
        work.add(_record("rollout", iteration=iteration, values={"uri": kept.uri}))
        batch = f"{work.uri}/batches/{iteration}.parquet" if iteration else "/elsewhere/b"
        if iteration:
            rows = [row(iteration=1, sample=0, reward=-3.0), row(iteration=1, sample=1, reward=7.0)]
            write_batch(batch, rows, {})
        metrics = {"mean_reward": 0.5 + iteration, "episodes": 2}
        artifacts = {"batch": batch}
        work.add(_record("feedback", iteration=iteration, metrics=metrics, artifacts=artifacts))
    measured = {"kl_sample_train": 0.01, "loss:sum": -2.5}
    work.add(_record("update", metrics=measured, values={"policy": "tinker://p"}))
    work.add(_record("evaluate", metrics={"mean_reward": 0.1, "episodes": 4}))
    return work


def test_the_step_makes_the_page_of_a_run(work: Work, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    params = {"work_uri": work.uri, "title": "My agent"}
    outputs = STEP.execute(params, {}, {"html": str(html)})
    assert outputs.html.metadata == {"schema": "tuft.report/1", "title": "My agent"}
    assert outputs.metrics == {
        "iterations": 2,
        "first_reward": 0.5,
        "last_reward": 1.5,
        "best_reward": 1.5,
        "first_evaluation": 0.1,
        "last_evaluation": 0.1,
        "elapsed_seconds": 1.0,
    }
    text = html.read_text()
    page = Page(text)
    shown = "".join(page.texts)
    for said in (
        "rollout after 0 updates, group 0, sample 1: the environment's reward 0.75",
        "rollout after 0 updates, group 0, sample 0: the environment's reward 0.25",
        "rollout after 1 updates, group 0, sample 1: reward 7",
        "rollout after 1 updates, group 0, sample 0: reward -3",
        "KL of the sampled to the trained policy",
        "tinker://p",
        "a b ->",
        "<hi>",
    ):
        assert said in shown
    assert "hi" not in page.tags
    # Made again, it does not report itself.
    STEP.execute(params, {}, {"html": str(html)})
    assert html.read_text() == text


def test_no_samples_are_no_transcripts(work: Work, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    STEP.execute({"work_uri": work.uri, "samples": 0}, {}, {"html": str(html)})
    assert "Transcripts" not in html.read_text()
    assert "<title>Training run</title>" in html.read_text()


def test_a_run_without_records_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="holds no records of steps: give the pipeline's steps"):
        STEP.execute({"work_uri": str(tmp_path)}, {}, {"html": str(tmp_path / "r.html")})
    assert not (tmp_path / "r.html").exists()
